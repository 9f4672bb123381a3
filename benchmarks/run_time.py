"""Whole run against plain Ultralytics with the same arguments and validations, one after the other; who begins changes from repeat to repeat.

    python benchmarks/run_time.py --coco-root DIR --base yolov10n.pt [--epochs 1 --imgsz 640 --train-max-images 128 --val-max-images 64 --repeats 1 --bare]

Without more it is the profile smoke.

`plain` trains the unquantised model with Ultralytics' own trainer and scores as many states of a model as our run does: raw and average each epoch (ours) are two validations an epoch;
fp, ptq, raw and average at the end are scored with both heads. `--bare` times it once more with nothing but Ultralytics' own validations.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from yolov10_qat.data.view import build_view

ENVIRONMENT = os.environ.copy()  # making the data imports Ultralytics, which sets OMP_NUM_THREADS


def ours(args, folder):
    words = ['run', '--method', 'ema', '--device', 'cpu', '--imgsz', args.imgsz, '--epochs', args.epochs, '--train-max-images', args.train_max_images, '--val-max-images', args.val_max_images,
             '--coco-root', args.coco_root, '--base', args.base, '--run-root', folder/'ours']
    return timed([sys.executable, '-m', 'yolov10_qat', *map(str, words)])


PLAIN = '''
import json, sys
from ultralytics import YOLO
data, base, imgsz, epochs, folder, extra = json.loads(sys.argv[1])
model = YOLO(base)
common = dict(data=data, imgsz=imgsz, device='cpu', plots=False, verbose=False)
score = lambda: [model.val(**common, batch=32, nms=n, project=folder, name='val', exist_ok=True) for n in (False, None)]
if extra: score(); score()                                             # fp and ptq, both heads
if extra: model.add_callback('on_fit_epoch_end', lambda t: t.validator(t))  # the second score of each epoch
model.train(**common, epochs=epochs, batch=16, nbs=16, optimizer='Adam', lr0=1e-4, lrf=.1, momentum=.9, weight_decay=0, warmup_epochs=0, mosaic=0, close_mosaic=0, amp=False,
            patience=0, nms=False, project=folder, name='train', exist_ok=True)
if extra: score(); score()                                             # raw and average, both heads
'''


def plain(args, folder, extra):
    return timed(
        [sys.executable, '-c', PLAIN,
         json.dumps(
             [str(folder/'dataset'/'dataset.yaml'), str(args.base), args.imgsz, args.epochs,
              str(folder/f'plain{extra}'), extra])])


def timed(words):
    started = time.monotonic()
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode: sys.exit(done.stderr[-3000:])
    return time.monotonic() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--coco-root', type=Path, required=True)
    parser.add_argument('--base', type=Path, required=True)
    parser.add_argument('--epochs', type=int, default=1)
    parser.add_argument('--imgsz', type=int, default=640)
    parser.add_argument('--train-max-images', type=int, default=128, help='0 for all')
    parser.add_argument('--val-max-images', type=int, default=64, help='0 for all')
    parser.add_argument('--repeats', type=int, default=1)
    parser.add_argument('--bare', action='store_true')
    args = parser.parse_args()
    args.coco_root, args.base = args.coco_root.resolve(), args.base.resolve()
    sides = dict(ours_s=ours, plain_s=lambda *a: plain(*a, True)) | (
        dict(bare_s=lambda *a: plain(*a, False)) if args.bare else {})
    rows = []
    for i in range(args.repeats):
        with tempfile.TemporaryDirectory() as d:
            build_view(args.coco_root, Path(d)/'dataset', train_max_images=args.train_max_images,
                       val_max_images=args.val_max_images)
            row = {}
            for name, measure in list(sides.items())[::-1 if i % 2 else 1]:
                row[name] = measure(args, Path(d))
                print(f'{name} {row[name]:.1f}', flush=True)
            rows.append(row)
    ratios = {k: statistics.median(r['ours_s']/r[k] for r in rows) for k in sides if k != 'ours_s'}
    for k, ratio in ratios.items(): print(f'ours / {k[:-2]} {ratio:.3f}')
    print(
        json.dumps(
            dict(benchmark='run_time', machine=platform.platform(), python=platform.python_version(), rows=rows,
                 ratios=ratios)))


if __name__ == '__main__': main()
