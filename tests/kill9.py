"""Kill a scratch run with SIGKILL at random moments, resume after each, and compare the end with that of a run that was left alone.

    python tests/kill9.py FOLDER [--kills 10] [--seed 0]

Every third kill waits for a checkpoint to be in the middle of being written. After each kill the newest whole checkpoint must be that of the last
finished epoch: nothing is lost but the unfinished one. Prints a line a kill and ends with status 0 when the final weights are the same, bit for bit."""
import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from yolov10_qat.checkpoint.store import load_checkpoint, newest_checkpoint
from yolov10_qat.data.scenes import write_scenes

RUN = ['--variant', 'yolo10n', '--imgsz', '64', '--batch', '8', '--train-max-images', '48', '--val-max-images', '8',
       '--save-period', '2', '--method', 'ema+dampen', '--scale', 'learned', '--bits-schedule', '32:0,6:2,4:4',
       '--warmup-epochs', '1']


def command(root, *more):
    return [sys.executable, '-m', 'yolov10_qat', 'scratch', 'qat-w4a16', '--run-root', str(root), *more]


def weights(root): return root/'qat-w4a16'/'ultralytics'/'train'/'weights'


def kernel(root):
    try: return int((root/'qat-w4a16'/'.lock').read_text() or 0)
    except (FileNotFoundError, ValueError): return 0


def alive(pid):
    try: return 'Z' not in Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except FileNotFoundError: return False


def finished(root):
    table = root/'qat-w4a16'/'ultralytics'/'train'/'results.csv'
    return len(table.read_text().splitlines())-1 if table.is_file() else 0


def kill(run, root, how, wait_s):
    "Whether there was something to kill."
    started = time.monotonic()
    while run.poll() is None:
        writing = any(weights(root).glob('.*.part')) if weights(root).is_dir() else False
        if writing if how == 'in a write' else time.monotonic()-started > wait_s: break
        time.sleep(.0005 if how == 'in a write' else .02)
    if run.poll() is not None: return False
    pid = kernel(root)
    for victim in {run.pid, pid} - {0}:
        try: os.kill(victim, signal.SIGKILL)
        except ProcessLookupError: pass
    run.wait()
    while pid and alive(pid): time.sleep(.05)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--kills', type=int, default=10)
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
    kills, resume = 0, False
    while True:
        run = subprocess.Popen(command(killed, *(['--resume'] if resume else settings)), stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
        if kills >= asked.kills:
            if run.wait():
                sys.exit(f'FAILED: the last resume ended with status {run.returncode}; see {killed}/qat-w4a16/run.log')
            break
        how = 'in a write' if kills % 3 == 2 else 'at random'
        if not kill(run, killed, how, chance.uniform(.1, .24)*took): break  # it came to its end before its time
        kills, done = kills+1, finished(killed)
        resume = (killed/'qat-w4a16'/'run_config.yaml').is_file()
        content = newest_checkpoint(weights(killed))[1]
        epoch = content['epoch'] if content else 0
        torn = len(list(weights(killed).glob('.*.part'))) if weights(killed).is_dir() else 0
        print(f'kill {kills} {how}: {done} epochs in the table, newest whole checkpoint after epoch '
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
    print(f'{kills} kills: weights, averages, optimizer and results are those of the run that was left alone, bit '
          'for bit')


if __name__ == '__main__': main()
