"""Time of `yolov10-qat summarize` over many stored summaries, kernel start and figures included.

    python benchmarks/summarize_time.py [--runs 1000 --repeats 3]
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]/'tests'))
from many_runs import EXAMPLE, incomplete, store, vary  # noqa: E402

VARIANTS, METHODS = ('yolo10n', 'yolo10s', 'yolo10m', 'yolo10b'), ('baseline', 'ema', 'ema+qc', 'qc')


def summary(i):
    "One of many: four variants, four methods, a seed each, some collapsed, some incomplete; as long as a real one."
    s = vary(VARIANTS[i % 4], METHODS[i//4 % 4], seed=i, shift=.0001*(i % 97), gain=.0001*(i % 31-15),
             outcome='collapsed' if i % 50 == 0 else 'stable')
    s['quantization']['layers'] = EXAMPLE['quantization']['layers']
    return incomplete(s) if i % 40 == 7 else s


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', type=int, default=1000)
    parser.add_argument('--repeats', type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store(Path(folder)/'runs', *map(summary, range(args.runs)))
        seconds = []
        for i in range(args.repeats):
            started = time.monotonic()
            subprocess.run(
                [sys.executable, '-m', 'yolov10_qat', 'summarize', f'{folder}/runs', '--out', f'{folder}/out{i}'],
                check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.monotonic()-started)
            print(f'{seconds[-1]:.2f} s, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors')
        print(f'{args.runs} runs: median {statistics.median(seconds):.2f} s, page '
              f'{Path(folder, "out0/report.html").stat().st_size/1e6:.2f} MB')


if __name__ == '__main__': main()
