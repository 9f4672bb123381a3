"""Time to the answer of commands that compute nothing, against `import torch` alone, in turns.

    python benchmarks/startup_time.py [--repeats 9]
"""
import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import emit, ratios, spread

MAKE = '''
import sys
from yolov10_qat.checkpoint.store import random_model, save_checkpoint
from yolov10_qat.quant.layers import plan, quantize
model = random_model('yolo10n', map(str, range(80)), seed=0)
manifest = plan(model)
state = quantize(model, manifest).state_dict()
save_checkpoint(sys.argv[1], dict(epoch=1, model_state_dict=state, ema_state_dict=state, optimizer=None, train_args={}, model_yaml=model.yaml, names=model.names, manifest=manifest, ema_updates=1, resume={}))
'''

def asked(file):
    "Words of each command, and its exit status."
    return {'--help': (['--help'], 0), 'run --help': (['run', '--help'], 0), '--version': (['--version'], 0), 'unknown flag': (['run', '--epoch', '3'], 2), 'bad value': (['run', '--weight-bits', '9'], 1),
            'no such file': (['eval', 'nowhere.pt', '--coco-root', 'nowhere'], 1), 'checkpoint show': (['checkpoint', 'show', file], 0)}


def seconds(words, status):
    "Wall time of one process of Python."
    started = time.monotonic()
    done = subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took = time.monotonic() - started
    if done.returncode != status: sys.exit(f'{words} ended with {done.returncode}, not {status}')
    return took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/'checkpoint.pt'
        subprocess.run([sys.executable, '-c', MAKE, file], check=True)
        tasks = {name: (['-m', 'yolov10_qat', *words], status) for name,
                 (words, status) in asked(file).items()} | {'import torch': (['-c', 'import torch'], 0)}
        # the first reads files into memory
        rounds = [{name: seconds(*task) for name, task in tasks.items()} for _ in range(args.repeats + 1)][1:]
        size = file.stat().st_size
    columns = {name: [r[name] for r in rounds] for name in tasks}
    shares = {name: ratios(columns, name, 'import torch') for name in columns if name != 'import torch'}
    for name, values in columns.items():
        print(f'{name:16} {spread(values, "s")}'
              + (f'; of import torch {spread(shares[name])}' if name in shares else ''))
    emit('startup', seconds=columns, shares=shares, checkpoint_bytes=size)


if __name__ == '__main__': main()
