"Sweeps on a real Ray: killed and resumed, a try killed, a node lost, points that fail, plans that are wrong."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import psutil
import pytest
import torch
import yaml

from bounded import bounded
from conftest import REPOSITORY, command
from yolov10_qat.checkpoint.store import load_checkpoint
from yolov10_qat.compare.sweep_file import PointRow, SweepFile, load_sweep, save_sweep
from yolov10_qat.core.files import file_sha256
from yolov10_qat.runs.environment import now
from yolov10_qat.runs.stop import Stop, order_stop
from yolov10_qat.runs.summary import load_summary
from yolov10_qat.sweep import sweep as home
from yolov10_qat.sweep.attempt import SweepFolder, finished
from yolov10_qat.sweep.book import Screen, SweepBook
from yolov10_qat.sweep.plan import read_plan
from yolov10_qat.sweep.rules import Judge

SWEEP = [sys.executable, '-m', 'yolov10_qat', 'sweep']


def plan_file(folder, tiny, **more):
    "A plan of runs that take seconds each."
    base = dict(coco_root=str(tiny/'coco'), base=str(tiny/'base.pt'), imgsz=64, epochs=8, batch=2, lr0=1e-3, ema_decay=.5, ema_tau=2, method='ema')
    folder.mkdir(exist_ok=True)
    (folder/'plan.yaml').write_text(yaml.safe_dump(dict(base=base) | more, sort_keys=False))
    return folder/'plan.yaml'


def until(what, limit_s=600):
    "Wait until `what()` is true; its value."
    deadline = time.monotonic() + limit_s
    while not (found := what()):
        assert time.monotonic() < deadline, 'waited too long'
        time.sleep(.1)
    return found


def points(folder):
    return {p.name: p for p in load_sweep(folder).points} if (folder/'sweep.json').is_file() else {}


def at_work(folder):
    "Processes that work in a folder."
    found = []
    for p in psutil.process_iter(['cmdline']):
        if str(folder) in ' '.join(p.info['cmdline'] or ()) and p.pid != os.getpid(): found.append(p)
    return found


def digests(folder): return {str(p): file_sha256(p) for p in sorted(folder.rglob('*')) if p.is_file()}


KILLED = dict(points=[dict(seed=0, epochs=2), dict(seed=1, epochs=30), dict(seed=2, method='baseline', epochs=4), dict(seed=3, epochs=2)])


@pytest.fixture(scope='session')
def resumed(tiny, once):
    "A sweep whose driver was killed when one point was done and others were under way."
    def make(folder):
        folder.mkdir()
        (folder/'before.json').write_text(json.dumps(kill_and_resume(folder, tiny)))
    folder = once('sweep', make)
    before, said = json.loads((folder/'before.json').read_text())
    return folder/'plan.yaml', folder/'out', before, said


def kill_and_resume(folder, tiny):
    "Digests of what was done when the driver was killed, and what the second one said."
    plan, out = plan_file(folder, tiny, **KILLED), folder/'out'
    with open(folder/'said.txt', 'wb') as said:
        driver = subprocess.Popen([*SWEEP, plan, '--out', out], stdout=said, stderr=said, start_new_session=True)
        try: until(lambda: (here := points(out).values()) and any(p.fate == 'done' for p in here) and any(p.fate == 'running' and p.epoch for p in here))
        finally: os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    done = [p.name for p in points(out).values() if p.fate == 'done' and finished(out/'runs'/p.name)]
    until(lambda: not at_work(out), 120)  # nobody outlives the driver
    before = {n: digests(out/'runs'/n) for n in done}
    again = command('sweep', plan, '--out', out, '--resume')
    assert again.returncode == 0, again.stdout + again.stderr
    return before, again.stdout


def test_a_resumed_sweep_leaves_what_is_done(resumed):
    _, out, before, _ = resumed
    assert before and len(before) < 4
    assert {n: digests(out/'runs'/n) for n in before} == before
    assert [p.fate for p in load_sweep(out).points] == ['done']*4


def test_what_was_under_way_ends_as_it_would_have_alone(resumed, tmp_path):
    plan, out, before, said = resumed
    name = next(line.split(':')[0] for line in said.splitlines() if 'goes on after epoch' in line)
    alone = read_plan(plan, tmp_path/'alone')
    config = next(p.config for p in alone.points if p.name == name)
    done = bounded([sys.executable, '-m', 'yolov10_qat', 'run', '--config', SweepFolder(out).config(name), '--run-root', tmp_path/'run'],
                   env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0 and config.seed == load_summary(tmp_path/'run').training.seed
    here, there = (load_checkpoint(root/'ultralytics/train/weights/last.pt') for root in (out/'runs'/name, tmp_path/'run'))
    for kind in ('model_state_dict', 'ema_state_dict'):
        if here[kind] is None: assert there[kind] is None
        else: assert all(torch.equal(v, there[kind][k]) for k, v in here[kind].items())


def test_the_page_of_a_sweep(resumed, tmp_path):
    _, out, _, said = resumed
    assert '4 of 4 points done' in said
    page = (out/'report.html').read_text()
    assert all(f'>{p.name}</a>' in page and (out/p.run_root/'report.html').is_file() for p in load_sweep(out).points)
    assert 'SWEEP of 4 points' in page and 'GATE' not in page
    raw = json.loads((out/'sweep.json').read_text())
    jsonschema.validate(raw, json.loads((REPOSITORY/'yolov10_qat/schemas/sweep.schema.json').read_text()))
    again = shutil.copytree(out, tmp_path/'again', symlinks=True)
    (again/'report.html').unlink()
    done = command('summarize', again)
    assert done.returncode == 0 and 'SWEEP of 4 points' in done.stdout and 'SWEEP of 4 points' in (again/'report.html').read_text()


def test_another_plan_is_not_gone_on_with(resumed, tiny, tmp_path):
    plan, out, *_ = resumed
    changed = plan_file(tmp_path, tiny, points=[*KILLED['points'][1:], dict(seed=9, epochs=2)])
    done = command('sweep', changed, '--out', out, '--resume')
    assert done.returncode == 1 and 'new: seed9_epochs2; gone: seed0_epochs2' in done.stderr
    done = command('sweep', plan, '--out', out)
    assert done.returncode == 1 and 'contains a sweep; continue it with --resume' in done.stderr


def test_a_killed_try_is_repeated_and_a_hopeless_one_given_up(tiny, tmp_path):
    (tmp_path/'bad.pt').write_bytes(b'no weights')
    plan, out = plan_file(tmp_path, tiny, points=[dict(seed=3), dict(base=str(tmp_path/'bad.pt'))]), tmp_path/'out'
    with open(tmp_path/'said.txt', 'w+') as said:
        driver = subprocess.Popen([*SWEEP, plan, '--out', out], stdout=said, stderr=said)
        until(lambda: points(out) and points(out)['seed3'].epoch)
        launcher = next(p for p in at_work(out/'points'/'seed3.yaml') if 'runpy' not in ' '.join(p.cmdline()))
        launcher.kill()
        assert driver.wait(300) == 1
        said.seek(0)
        text = said.read()
    killed, bad = points(out)['seed3'], points(out)['bad.pt']
    assert (killed.fate, killed.tries) == ('done', 2) and 'seed3: will be tried again: ended by signal 9' in text
    assert (bad.fate, bad.tries) == ('failed', 3) and 'bad.pt' in bad.error
    assert f'bad.pt: {bad.error}; alone: yolov10-qat run --config {out}/points/bad.pt.yaml' in text
    page = (out/'report.html').read_text()
    assert 'SWEEP of 2 points' in page and '1 failed' in page and '; alone: yolov10-qat run --config' in page


def test_a_lost_node_loses_no_point(tiny, tmp_path):
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, object_store_memory=100 << 20, include_dashboard=False))
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 << 20) for _ in range(2)]
    plan, out = plan_file(tmp_path, tiny, points=[dict(seed=5, epochs=12)]), tmp_path/'out'
    try:
        with open(tmp_path/'said.txt', 'wb') as said:
            driver = subprocess.Popen([*SWEEP, plan, '--out', out, '--address', cluster.address], stdout=said, stderr=said)
            until(lambda: points(out) and points(out)['seed5_epochs12'].epoch)
            guard = next(p for p in at_work(out/'points'/'seed5_epochs12.yaml') if 'runpy' in ' '.join(p.cmdline()))
            above = {p.pid for p in guard.parents()}
            lost = next(n for n in nodes if any(info.process.pid in above for infos in n.all_processes.values() for info in infos))
            cluster.remove_node(lost, allow_graceful=False)
            assert driver.wait(300) == 0, (tmp_path/'said.txt').read_text()
    finally: cluster.shutdown()
    found = points(out)['seed5_epochs12']
    assert (found.fate, found.epoch) == ('done', 12) and found.tries >= 2
    assert 'goes on after epoch' in (tmp_path/'said.txt').read_text()


def test_without_ray_the_points_run_one_by_one(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(home, 'ray_is_installed', lambda: False)
    plan, said = plan_file(tmp_path, tiny, grid=dict(seed=[0, 1]), tries=1), []
    found = home.sweep(plan, tmp_path/'out', tell=said.append)
    assert [p.fate for p in found.points] == ['done']*2 and found.engine == 'here' and said == [home.HOW_TO_GET_RAY]
    lines = capsys.readouterr().out.splitlines()
    ends = [lines.index(next(x for x in lines if x.startswith(f'seed{s}: ') and 'try 1' in x)) for s in (0, 1)]
    assert all(line.startswith('seed0') for line in lines[ends[0]:ends[1]])
    with pytest.raises(ValueError, match='needs Ray: pip install'): home.sweep(plan, tmp_path/'other', address='auto')


def test_an_interrupted_sweep_lets_go_of_its_folder(tiny, tmp_path, monkeypatch):
    "In a notebook the process lives on, and so would its lock."
    def interrupt(plan, names, book): raise KeyboardInterrupt
    monkeypatch.setattr(home, 'ray_is_installed', lambda: False)
    monkeypatch.setattr(home, 'run_one_by_one', interrupt)
    plan = plan_file(tmp_path, tiny, grid=dict(seed=[0]))
    with pytest.raises(KeyboardInterrupt) as kept: home.sweep(plan, tmp_path/'out')
    with pytest.raises(KeyboardInterrupt): home.sweep(plan, tmp_path/'out', resume=True)  # not: somebody else works there
    assert kept.tb and [p.fate for p in load_sweep(tmp_path/'out').points] == ['waiting']  # its frames are alive, as IPython keeps them


def test_a_run_that_is_told_to_stop_ends_whole(tiny, tmp_path):
    root = tmp_path/'run'
    words = [sys.executable, '-m', 'yolov10_qat', 'run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', '64', '--batch', '2',
             '--method', 'ema', '--epochs', '20', '--run-root', root]
    process = subprocess.Popen([str(w) for w in words], stdout=subprocess.DEVNULL)
    until(lambda: (root/'ultralytics/train/results.csv').is_file())
    order_stop(root, Stop(rule='hopeless', reason='0.1 where others have 0.3'))
    assert process.wait(120) == 0
    summary = load_summary(root)
    s = summary.stopped
    assert 0 < s.after < 20 == s.epochs and len(summary.metrics.history) == s.after and summary.exports
    assert f'after {s.after} of 20 epochs: 0.1 where others have 0.3' in (root/'report.html').read_text()
    def kept(): return {p: d for p, d in digests(root/'ultralytics').items() if '/tensorboard/' not in p}  # told again on a resume
    before = kept()
    assert command('run', '--resume', '--run-root', root).returncode == 0  # a stopped run stays stopped
    assert kept() == before and load_summary(root).stopped == s
    done = command('run', '--resume', '--run-root', root, '--epochs', 21)  # unless it is told to go on
    assert done.returncode == 0 and load_summary(root).stopped is None and len(load_summary(root).metrics.history) == 21


@pytest.mark.slow
def test_a_collapse_is_stopped(tmp_path):
    plan = tmp_path/'plan.yaml'
    plan.write_text(yaml.safe_dump(dict(
        base=dict(profile='demo', method='baseline', epochs=20, lr0=.012, lrf=1., warmup_epochs=6.), grid=dict(seed=[0]), stop=dict(collapse=2))))
    done = command('sweep', plan, '--out', tmp_path/'out')
    assert done.returncode == 0
    [found] = load_sweep(tmp_path/'out').points
    assert found.stopped.rule == 'collapse' and found.status == 'completed-failed' and found.epoch < 20 and found.saved_s > 0
    assert 'ending 1 early saved about' in (tmp_path/'out/report.html').read_text()
    assert load_summary(tmp_path/'out'/found.run_root).diagnosis.lost > .5


def test_large_sizes_wait_for_the_gate(tmp_path):
    plan = tmp_path/'plan.yaml'
    plan.write_text(yaml.safe_dump(dict(base=dict(profile='demo', base='demo', method='ema+qc', epochs=1),
                                        grid=dict(variant=['yolo10m', 'yolo10n'], seed=[0]), stop=dict(gate=True)), sort_keys=False))
    read, folder, done = read_plan(plan, tmp_path/'out'), SweepFolder((tmp_path/'out').resolve()), []
    sweep = home._open(read, folder, 'here', False)
    with Screen() as screen: home._do(read, SweepBook(sweep, folder, Judge(read.file.stop), screen), lambda plan, names, book: done.append(names))
    assert done == [['yolo10n_seed0']]  # and nothing after it
    refused = sweep.point('yolo10m_seed0')
    assert refused.fate == 'refused' and 'yolo10m may not start' in refused.error


@pytest.mark.parametrize('more, piece', [
    (['--address', '127.0.0.1:9'], 'nothing answers at 127.0.0.1:9'), (['--address', 'here'], 'write HOST:PORT'),
    (['--resume'], 'contains no sweep to resume')])
def test_refused_before_anything_starts(tiny, tmp_path, more, piece):
    plan = plan_file(tmp_path, tiny, grid=dict(seed=[0]))
    started = time.monotonic()
    done = command('sweep', plan, '--out', tmp_path/'out', *more)
    assert done.returncode == 1 and piece in done.stderr and len(done.stderr.splitlines()) == 1 and not (tmp_path/'out').exists()
    assert time.monotonic() - started < 60


def test_no_node_has_so_much(tiny, tmp_path):
    plan = plan_file(tmp_path, tiny, grid=dict(seed=[0]), resources=dict(cpus=4000))
    done = command('sweep', plan, '--out', tmp_path/'out')
    assert done.returncode == 1 and 'a run asks for 4000 CPU, and no node has that' in done.stderr and not (tmp_path/'out').exists()


def test_a_dry_run_starts_nothing(tiny, tmp_path):
    done = command('sweep', plan_file(tmp_path, tiny, grid=dict(seed=[0, 1])), '--out', tmp_path/'out', '--dry-run')
    assert done.returncode == 0 and '2 points, 1 CPU cores a run; hours: unknown' in done.stdout and not (tmp_path/'out').exists()


def test_the_stored_example_opens():
    found = load_sweep(Path(__file__).parent/'examples'/'sweep-v1')
    assert [p.fate for p in found.points] == ['done', 'failed'] and found.points[0].stopped.after == 4


def test_what_is_hostile_is_shown_as_text(tmp_path):
    evil = PointRow(name='<script>alert(1)</script>', settings={}, run_root='runs/x', epochs=1, command='x', fate='failed', error='<b>')
    (tmp_path/'runs').mkdir()
    shutil.copytree(REPOSITORY/'reports'/'2026-11-22-collapse', tmp_path/'runs'/'x')
    save_sweep(SweepFile(created_at=now(), updated_at=now(), engine='here', axes={}, rules={}, points=[evil]), tmp_path)
    assert home.write_page(tmp_path) and '<script>' not in (page := (tmp_path/'report.html').read_text()) and '&lt;b&gt;' in page
