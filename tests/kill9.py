"""Kill a scratch run with SIGKILL at random moments, resume after each, and compare the end with that of a run that was left alone.

    python tests/kill9.py FOLDER [--kills 20] [--seed 0]

A third of the kills wait for a checkpoint to be in the middle of being written, a third for the training; the others come when they come.
After each kill the newest whole checkpoint must be that of the last
finished epoch: nothing is lost but the unfinished one. Prints a line a kill and ends with status 0 when the final weights are the same, bit for bit."""
import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch

from processes import alive, free
from yolov10_qat.checkpoint.store import load_checkpoint, newest_checkpoint
from yolov10_qat.data.scenes import write_scenes

RUN = ['--variant', 'yolo10n', '--imgsz', '64', '--batch', '8', '--train-max-images', '48', '--val-max-images', '8',
       '--save-period', '2', '--method', 'ema+dampen', '--scale', 'learned', '--bits-schedule', '32:0,6:2,4:4',
       '--warmup-epochs', '1']


def command(root, *more):
    return [sys.executable, '-m', 'yolov10_qat', 'scratch', 'qat-w4a16', '--run-root', str(root), *more]


def weights(root): return root/'qat-w4a16'/'ultralytics'/'train'/'weights'


def stages(root):
    "Of all attempts so far, in their order."
    log = root/'qat-w4a16'/'run.log'
    lines = log.read_text().splitlines() if log.is_file() else []
    return [line.rpartition(' ')[2] for line in lines if ' INFO stage ' in line]


def children(pid):
    return [int(c) for f in Path(f'/proc/{pid}/task').glob('*/children') for c in f.read_text().split()]


def finished(root):
    table = root/'qat-w4a16'/'ultralytics'/'train'/'results.csv'
    return len(table.read_text().splitlines())-1 if table.is_file() else 0


def is_time(how, root, before, since, wait_s):
    if how == 'in a write': return weights(root).is_dir() and any(weights(root).glob('.*.part'))
    if how == 'in training' and 'train' not in stages(root)[before:]: since[0] = time.monotonic()
    return time.monotonic()-since[0] > wait_s


def kill(run, root, how, wait_s):
    "The stage in which launcher and kernel were killed; None: there was nothing to kill."
    since, before = [time.monotonic()], len(stages(root))
    while run.poll() is None and not is_time(how, root, before, since, wait_s):
        time.sleep(.0005 if how == 'in a write' else .02)
    if run.poll() is not None: return None
    victims = [run.pid, *children(run.pid)]
    for victim in victims: os.kill(victim, signal.SIGKILL)
    run.wait()
    while any(map(alive, victims)) or not free(root/'qat-w4a16'): time.sleep(.05)
    return (stages(root)[before:] or ['start'])[-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0, help='of the moments')
    parser.add_argument('--epochs', type=int, default=30)
    asked = parser.parse_args()
    chance, whole, killed = random.Random(asked.seed), asked.folder/'whole', asked.folder/'killed'
    settings = [*RUN, '--epochs', str(asked.epochs), '--coco-root',
                str(write_scenes(asked.folder/'coco', 48, 8).resolve())]
    started = time.monotonic()
    subprocess.run(command(whole, *settings), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took = time.monotonic()-started
    print(f'left alone: {took:.0f} s, {asked.epochs} epochs', flush=True)
    kills, resume, moments = 0, False, Counter()
    while True:
        run = subprocess.Popen(command(killed, *(['--resume'] if resume else settings)), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        if kills >= asked.kills:
            if run.wait():
                sys.exit(f'FAILED: the last resume ended with status {run.returncode}; see {killed}/qat-w4a16/run.log')
            break
        how = ('at random', 'in training', 'in a write')[kills % 3]
        stage = kill(run, killed, how, chance.uniform(0, {'at random': .3}.get(how, .04))*took)
        if stage is None: sys.exit(f'FAILED: ended with status {run.returncode} before kill {kills+1}; give more --epochs')
        kills, done = kills+1, finished(killed)
        moments[stage] += 1
        resume = (killed/'qat-w4a16'/'run_config.yaml').is_file()
        content = newest_checkpoint(weights(killed))[1]
        epoch = content['epoch'] if content else 0
        torn = len(list(weights(killed).glob('.*.part'))) if weights(killed).is_dir() else 0
        print(f'kill {kills} {how}, stage {stage}: {done} epochs in the table, newest whole checkpoint after epoch '
              f'{epoch}{", one half written" if torn else ""}', flush=True)
        if epoch < done-1 or epoch > done: sys.exit(f'FAILED: epoch {done} was finished and is lost')
    one, two = (load_checkpoint(weights(root)/'last.pt') for root in (whole, killed))
    for key in ('model_state_dict', 'ema_state_dict'): torch.testing.assert_close(two[key], one[key], rtol=0, atol=0)
    torch.testing.assert_close(two['optimizer']['state'], one['optimizer']['state'], rtol=0, atol=0)
    # all but the time
    tables = [
        [row.split(',')[0:1]+row.split(',')[2:]
         for row in (root/'qat-w4a16/ultralytics/train/results.csv').read_text().splitlines()]
        for root in (whole, killed)]
    assert tables[0] == tables[1], 'the tables of results differ'
    print('moments:', ', '.join(f'{n} in {stage}' for stage, n in moments.items()))
    if kills >= 20 and moments['train'] < 5: sys.exit('FAILED: fewer than five moments in training')
    print(f'{kills} kills: weights, averages, optimizer and results are those of the run that was left alone, bit '
          'for bit')


if __name__ == '__main__': main()
