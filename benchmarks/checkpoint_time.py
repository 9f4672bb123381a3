"""How long saving keeps a training waiting, for a network of full size: last.pt, best.pt and a snapshot, against one bare torch.save of the same content.

    python benchmarks/checkpoint_time.py [--variant yolo10m] [--optimizer SGD] [--pairs 5]

Prints a table and a JSON line. The weights are random and the optimizer has made one step; sizes are those of a run with averaging and tracking."""
import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from ultralytics.utils.torch_utils import ModelEMA

from yolov10_qat.checkpoint.store import random_model, save_checkpoint
from yolov10_qat.core.files import replace_file
from yolov10_qat.quant.layers import plan, quantize
from yolov10_qat.quant.oscillation import Tracker
from yolov10_qat.train.float_trainer import checkpoint_bytes


def content_of(variant, optimizer):
    model = random_model(variant, map(str, range(80)), 0)
    manifest = plan(model)
    model = quantize(model, manifest).train().requires_grad_(True)
    for p in model.parameters(): p.grad = torch.zeros_like(p)
    stepper = torch.optim.SGD(model.parameters(), lr=.01,
                              momentum=.9) if optimizer == 'SGD' else torch.optim.Adam(model.parameters())
    stepper.step()
    tracker, average = Tracker(model, manifest), ModelEMA(model)
    return model, dict(epoch=1, model_state_dict=model.state_dict(), ema_state_dict=average.ema.state_dict(), optimizer=stepper.state_dict(), train_args={}, model_yaml=model.yaml, names=model.names,
                       manifest=manifest, ema_updates=1, resume=dict(oscillation=tracker.state_dict()))


def timed(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--variant', default='yolo10m')
    parser.add_argument('--optimizer', default='SGD', choices=('SGD', 'Adam'))
    parser.add_argument('--pairs', type=int, default=5)
    asked = parser.parse_args()
    model, content = content_of(asked.variant, asked.optimizer)
    with tempfile.TemporaryDirectory(dir='.') as folder:
        last, plain = Path(folder)/'last.pt', Path(folder)/'plain.pt'
        def copy(name): return lambda: replace_file(last.with_name(name), lambda part: shutil.copyfile(last, part))
        calls = {'bare torch.save': lambda: torch.save(content, plain),
                 'last.pt': lambda: save_checkpoint(last, content), 'best.pt': copy('best.pt'),
                 'snapshot': copy('epoch005.pt')}
        times = {name: [] for name in calls}
        for i in range(asked.pairs + 1):
            for name, call in calls.items():
                seconds = timed(call)
                if i: times[name].append(seconds)
        size = last.stat().st_size
    median = {name: statistics.median(t) for name, t in times.items()}
    worst = [sum(t) for t in zip(times['last.pt'], times['best.pt'], times['snapshot'])]
    print(f"{asked.variant}, {asked.optimizer}: {size/1e6:.0f} MB a file, "
          f"{checkpoint_bytes(model, True, 1 if asked.optimizer == 'SGD' else 2, 6)/1e6:.0f} MB foreseen")
    for name, t in times.items(): print(f'{name:16} {median[name]:6.2f} s  ({min(t):.2f} to {max(t):.2f})')
    print(f"all three        {statistics.median(worst):6.2f} s, "
          f"{statistics.median(worst)/median['bare torch.save']:.2f} times a bare torch.save")
    print(
        json.dumps(
            dict(variant=asked.variant, optimizer=asked.optimizer, bytes=size, seconds=median,
                 all_three=statistics.median(worst))))


if __name__ == '__main__': main()
