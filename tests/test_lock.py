"One process a run folder: from the launcher to the kernel without a gap, whoever is killed, whoever comes at the same time."
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from processes import free
from small_notebooks import ENTER, said, write
from yolov10_qat.core.config import RunConfig
from yolov10_qat.core.files import RunLock, RunLocked, check_unlocked
from yolov10_qat.core.layout import Layout
from yolov10_qat.pipeline import entrance, launch
from yolov10_qat.runs.summary import load_summary

FORK = multiprocessing.get_context('fork')
ROUNDS = 30


def tree(root): return {p.relative_to(root): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def a_run(root, **settings): return RunConfig(run_root=root, coco_root='demo', **settings)


def try_to_enter(root, seed, together, answers):
    together.wait(60)
    try: entered = entrance.enter(a_run(root, seed=seed))
    except Exception as e: answers.put((seed, None, str(e)))
    else: answers.put((seed, entered.run_id, ''))
    together.wait(60)  # the winner holds it until both have tried


def started_together(root, kind, barrier, queue):
    together, answers = barrier(2), queue()
    both = [kind(target=try_to_enter, args=(root, seed, together, answers), daemon=True) for seed in (0, 1)]
    for one in both: one.start()
    found = [answers.get(timeout=60) for _ in both]
    for one in both: one.join()
    return found


@pytest.mark.parametrize('what', ['processes', 'threads'])
def test_of_two_that_start_together_one_runs(what, tmp_path):
    import queue
    makers = (FORK.Process, FORK.Barrier, FORK.Queue) if what == 'processes' else (threading.Thread, threading.Barrier,
                                                                                  queue.Queue)
    for i in range(ROUNDS):
        root = tmp_path/str(i)
        found = started_together(root, *makers)
        (winner,) = [f for f in found if f[1]]
        (loser,) = [f for f in found if not f[1]]
        assert 'is in use by' in loser[2] and '\n' not in loser[2]
        assert load_summary(root).run_id == winner[1]
        assert f'seed: {winner[0]}' in Layout(root).config.read_text()


def test_nobody_comes_in_between_launcher_and_kernel(tmp_path, monkeypatch):
    "The kernel waits before it enters, and this process is asked again and again meanwhile."
    slow = write(tmp_path/'slow.ipynb', 'import time; time.sleep(2)', ENTER,
                 'import os; print(open(entered.lock.path).read() == str(os.getpid()))', 'time.sleep(1)')
    monkeypatch.setattr(launch, 'TEMPLATE', slow)
    root, ended, refused = tmp_path/'run', threading.Event(), []
    entered = entrance.enter(a_run(root))
    def ask():
        while not ended.is_set():
            try: entrance.enter(a_run(root, seed=1)).lock.release()
            except RunLocked: refused.append(True)
            else: refused.append(False)
            time.sleep(.01)
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    real = launch.execute
    def execute(*args):
        kernel = real(*args)
        ended.set()
        asking.join()
        return kernel
    monkeypatch.setattr(launch, 'execute', execute)
    summary, code = launch.launch(entered)
    assert code == 0, summary.error
    assert len(refused) > 50 and all(refused)
    assert load_summary(root).run_id == summary.run_id and summary.error is None
    assert said(Layout(root).notebook) == 'True\n'  # who holds it is the kernel
    check_unlocked(root)  # free in the end


HOLD = 'import sys, time; print("here", flush=True); time.sleep(600)'
LAUNCHER = f'''
import subprocess, sys, time
from yolov10_qat.core.files import RunLock
lock = RunLock(sys.argv[1])
kernel = subprocess.Popen([sys.executable, '-c', {HOLD!r}], pass_fds=[lock.descriptor])
print(kernel.pid, flush=True)
time.sleep(600)
'''


def becomes_free(root):
    for _ in range(500):
        if free(root): return True
        time.sleep(.02)
    return False


def test_a_killed_launcher_leaves_the_lock_to_the_kernel(tmp_path):
    launcher = subprocess.Popen([sys.executable, '-c', LAUNCHER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    said = [launcher.stdout.readline().strip() for _ in range(2)]
    kernel = int(next(s for s in said if s != 'here'))
    launcher.kill()
    launcher.wait()
    assert not free(tmp_path)
    with pytest.raises(RunLocked): RunLock(tmp_path)
    os.kill(kernel, signal.SIGKILL)
    assert becomes_free(tmp_path)
    launcher.stdout.close()


def test_workers_that_are_forked_off_do_not_hold_it(tmp_path):
    lock = RunLock(tmp_path)
    worker = FORK.Process(target=time.sleep, args=(600,), daemon=True)
    worker.start()
    lock.release()
    assert becomes_free(tmp_path)
    worker.kill()
    worker.join()


def test_a_program_that_is_started_does_not_hold_it(tmp_path):
    mine = RunLock(tmp_path)
    handed_on = os.dup(mine.descriptor)
    os.set_inheritable(handed_on, True)  # as it comes to a kernel
    theirs = RunLock(tmp_path, handed_on)
    assert not os.get_inheritable(theirs.descriptor)
    mine.release()
    theirs.release()
    assert free(tmp_path)


def test_a_refused_second_run_writes_nothing(tmp_path):
    root = tmp_path/'run'
    first = entrance.enter(a_run(root))
    before = tree(root)
    with pytest.raises(RunLocked, match=f'is in use by process {os.getpid()}'): entrance.enter(a_run(root, seed=1))
    with pytest.raises(RunLocked): entrance.enter(a_run(root), resume=True)
    assert tree(root) == before
    first.lock.release()
