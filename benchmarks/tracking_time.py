"""Time of a training step of quantised YOLOv10n with the oscillation tracker looking after it against the same step without, in turns.

    python benchmarks/tracking_time.py [--pairs 10] [--imgsz 320] [--batch 16] [--freezing]
"""
import argparse
import os
import statistics
import time

import torch
from torch.nn.utils import clip_grad_norm_
from ultralytics.cfg import get_cfg
from ultralytics.utils.torch_utils import ModelEMA

from yolov10_qat.checkpoint import random_model
from yolov10_qat.oscillation import Tracker
from yolov10_qat.quantizer import plan, quantize
from yolov10_qat.trainer import EqualHeadLoss


def make_step(imgsz, batch):
    "A model, its plan, and a function that does one step of Ultralytics' trainer with it: loss, gradients, clipping, Adam, average."
    model = random_model('yolo10n', map(str, range(80)), 0)
    manifest = plan(model)
    model = quantize(model, manifest).train().requires_grad_(True)
    model.args = get_cfg()
    model.criterion, average, optimizer = EqualHeadLoss(model), ModelEMA(model), torch.optim.Adam(model.parameters(), lr=1e-4)
    draw = torch.Generator().manual_seed(0)
    boxes = torch.rand(7*batch, 4, generator=draw)*.4 + .2
    data = dict(img=torch.rand(batch, 3, imgsz, imgsz, generator=draw), bboxes=boxes, cls=torch.randint(0, 80, (7*batch, 1), generator=draw).float(), batch_idx=torch.arange(batch).repeat_interleave(7))
    def step():
        model(data)[0].sum().backward()
        clip_grad_norm_(model.parameters(), 10.)
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
    return model, manifest, step


def seconds(*calls):
    started = time.perf_counter()
    for call in calls: call()
    return time.perf_counter()-started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pairs', type=int, default=10)
    parser.add_argument('--imgsz', type=int, default=320)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--freezing', action='store_true', help='with freezing on, as from freeze_start on')
    args = parser.parse_args()
    model, manifest, step = make_step(args.imgsz, args.batch)
    tracker = Tracker(model, manifest, freezing=args.freezing)
    def look(): tracker.look(.05 if args.freezing else None)
    seconds(step, look), seconds(step)  # caches and optimizer state
    looks = statistics.median(seconds(look) for _ in range(10))
    pairs = []
    for i in range(args.pairs):  # the order alternates, so that a drift of the machine favours neither
        first = seconds(step, look) if i % 2 else seconds(step)
        second = seconds(step) if i % 2 else seconds(step, look)
        pairs.append((first, second) if i % 2 else (second, first))
    ratios = sorted(w/o for w, o in pairs)
    for name, values in zip(('tracked', 'not tracked'), zip(*pairs)): print(f'{name:12} median {statistics.median(values):.3f} s a step')
    print(f'one look     median {1000*looks:.0f} ms, {looks/statistics.median(o for _, o in pairs):.1%} of a step; {len(tracker.integer_w):,} weights')
    print(f'ratio        median {statistics.median(ratios):.3f}, from {ratios[0]:.3f} to {ratios[-1]:.3f}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {torch.get_num_threads()} threads')


if __name__ == '__main__': main()
