"""Time of `yolov10-qat --help` against `import torch` alone, in turns.

    python benchmarks/help_time.py [--repeats 7]
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

HELP, TORCH = [sys.executable, '-m', 'yolov10_qat', '--help'], [sys.executable, '-c', 'import torch']


def seconds(words):
    "Wall time of one process."
    started = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic()-started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=7)
    args = parser.parse_args()
    seconds(HELP), seconds(TORCH)  # files into memory
    pairs = [(seconds(HELP), seconds(TORCH)) for _ in range(args.repeats)]
    ratios = sorted(h/t for h, t in pairs)
    for name, values in zip(('--help', 'import torch'), zip(*pairs)): print(f'{name:12} median {statistics.median(values):.2f} s')
    print(f'ratio        median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors')


if __name__ == '__main__': main()
