"MLflow, W&B and TensorBoard: one tracker run for a run, our values in it, and a tracker that fails never fails a training."
import json
import os
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bounded import bounded
from conftest import REPOSITORY, command
from fake_run import make_run
from yolov10_qat.core.layout import Layout
from yolov10_qat.pipeline import experiment
from yolov10_qat.pipeline.stages import Stages
from yolov10_qat.runs.summary import find_rung, load_summary
from yolov10_qat.train.trackers import PROJECT, TAG

RUNGS = ('fp', 'ptq', 'qat_raw', 'qat_ema', 'qc')

FAKE_MLFLOW = '''
import json, os
from types import SimpleNamespace
__version__ = 'fake'
_run = None
def _note(*what):
    with open(os.environ['FAKE_MLFLOW'], 'a') as file: file.write(json.dumps(what, default=str) + '\\n')
def active_run(): return _run
def start_run(run_id=None, **kw):
    global _run
    _note('start_run', run_id, kw)
    _run = SimpleNamespace(info=SimpleNamespace(run_id='r1'))
    return _run
def end_run(status):
    global _run
    _note('end_run', status)
    _run = None
def search_runs(**kw): return []
def get_tracking_uri(): return 'nowhere'
def autolog(): pass
def set_experiment(name): _note('set_experiment', name)
def log_params(params): pass
def log_metrics(metrics, step=None): _note('log_metrics', metrics, step)
def set_tags(tags): _note('set_tags', tags)
def log_artifact(path): _note('log_artifact', os.path.basename(path))
'''

FAKE_WANDB = '''
from types import SimpleNamespace
__version__ = 'fake'
run, Settings = None, dict
def init(**kw):
    global run
    run = SimpleNamespace(config=SimpleNamespace(setdefaults=dict), define_metric=lambda *a, **kw: None, log=full)
    return run
def full(*_, **kw): raise OSError('the disk of the tracker is full')
def finish(exit_code): full()
'''


def outside(folder, *libraries, **variables):
    "Environment of a command that knows nothing of pytest, where Ultralytics would not log, with settings of its own."
    inherited = {k: v for k, v in os.environ.items() if not k.startswith('PYTEST_') and k != 'GITHUB_ACTIONS'}
    path = [str(REPOSITORY), *map(str, libraries), os.environ.get('PYTHONPATH', '')]
    return inherited | dict(YOLO_CONFIG_DIR=str(folder/'yolo'), PYTHONPATH=os.pathsep.join(p for p in path if p),
                            **variables)


def switch(environment, **settings):
    "As `yolo settings NAME=VALUE` does."
    code = 'import sys, json; from ultralytics import settings; settings.update(json.loads(sys.argv[1]))'
    done = bounded([sys.executable, '-c', code, json.dumps(settings)], env=environment)
    assert done.returncode == 0, done.stderr


def epoch_shares(root, name):
    "Share of all weights by epoch, from the table of layers."
    table = pd.read_csv(root/'oscillation.csv')
    return {e: np.average(t[name], weights=t.weights) for e, t in table.groupby('epoch') if e}


def rung_values(root):
    "What trackers should know about the scores, from the stored summary."
    summary = load_summary(root)
    found = {r: find_rung(summary, r) for r in RUNGS}
    return {f'rungs/{name}/AP': r.AP for name, r in found.items() if r}


# Fake trackers, quick

@pytest.fixture(scope='module')
def faked(tiny, once):
    "A run with a tracker that notes what it is given, and one that fails at the first epoch."
    def make(folder):
        (folder/'lib').mkdir(parents=True)
        (folder/'lib'/'mlflow.py').write_text(FAKE_MLFLOW)
        (folder/'lib'/'wandb.py').write_text(FAKE_WANDB)
        environment = outside(folder, folder/'lib', FAKE_MLFLOW=str(folder/'seen.jsonl'))
        switch(environment, mlflow=True, wandb=True)
        done = command('run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 2,
                       '--batch', 2, '--lr0', 1e-3, '--method', 'ema', '--ema-decay', .5, '--ema-tau', 2, '--run-root',
                       folder/'run', env=environment, cwd=folder)
        (folder/'stdout.txt').write_text(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
    return once('faked', make)


def calls(folder, name):
    lines = [json.loads(line) for line in (folder/'seen.jsonl').read_text().splitlines()]
    return [rest for what, *rest in lines if what == name]


def test_one_run_from_the_first_epoch_to_the_verdict(faked):
    ours = load_summary(faked/'run').run_id
    assert calls(faked, 'start_run') == [[None, {'tags': {TAG: ours}, 'run_name': ours}]]
    assert calls(faked, 'end_run') == [['FINISHED']] and {name for name, in calls(faked, 'set_experiment')} == {PROJECT}
    assert [*rung_values(faked/'run')] == [f'rungs/{r}/AP' for r in RUNGS if r != 'qc']
    last, step = calls(faked, 'log_metrics')[-1]
    assert step == 2 and {k: last.get(k) for k in rung_values(faked/'run')} == rung_values(faked/'run')
    assert calls(faked, 'set_tags')[0][0]['verdict/status'] == load_summary(faked/'run').status
    kept = [name for name, in calls(faked, 'log_artifact')]
    assert {'report.html', 'run_summary.json', 'run_config.yaml', 'results.csv'} <= {*kept}


def test_each_epoch_has_both_scores_and_the_shares(faked):
    rows = [metrics for metrics, _ in calls(faked, 'log_metrics') if 'oscillation/changed' in metrics]
    assert len(rows) == 2 and all({'raw/mAP50-95B', 'metrics/mAP50-95B'} <= {*row} for row in rows)
    for name in ('oscillating', 'frozen', 'changed'):
        expected = epoch_shares(faked/'run', name)
        assert [row[f'oscillation/{name}'] for row in rows] == pytest.approx([*expected.values()], rel=1e-4)
    assert rows[0]['oscillation/changed'] > 0
    assert any('lr/pg0' in metrics for metrics, _ in calls(faked, 'log_metrics'))
    assert not any('oscillation' in name for name in pd.read_csv(Layout(faked/'run').results))


def test_a_tracker_that_fails_is_one_line(faked):
    said = [line for line in (faked/'stdout.txt').read_text().splitlines() if 'wandb' in line]
    assert said == ['warning: wandb failed and gets no more of this run: the disk of the tracker is full']


def test_tensorboard_has_the_same(faked):
    events = EventAccumulator(str(Layout(faked/'run').tensorboard)).Reload()
    assert {*rung_values(faked/'run'), 'raw/mAP50-95(B)', 'lr/pg0'} <= {*events.Tags()['scalars']}
    found = {e.step: e.value for e in events.Scalars('oscillation/oscillating')}
    assert found == pytest.approx(epoch_shares(faked/'run', 'oscillating'), rel=1e-4)


def test_a_run_that_fails_ends_as_failed(monkeypatch, tmp_path):
    ended = []
    monkeypatch.setattr(Stages, '_fail', lambda *_: None)
    monkeypatch.setattr(experiment, 'trackers_of', lambda root: type('T', (), dict(close=lambda _, failed: ended.append((root, failed))))())
    run = object.__new__(experiment.Experiment)
    run.root = tmp_path
    run._fail(RuntimeError('x'), 'train')
    assert ended == [(tmp_path, True)]


def test_nothing_is_imported_when_none_is_on(tmp_path):
    "Packages that say when they are imported; a setting that is on imports the one it names."
    (tmp_path/'lib').mkdir()
    for name in ('mlflow', 'wandb'): (tmp_path/'lib'/f'{name}.py').write_text(f'raise OSError("{name} was imported")')
    environment = outside(tmp_path, tmp_path/'lib')
    code = ('import sys; from yolov10_qat.train.float_trainer import trackers_of; trackers = trackers_of(sys.argv[1]); '
            'trackers.open(); trackers.close(); print([*trackers.found], trackers.lost, "mlflow" in sys.modules)')
    root = make_run(tmp_path/'r')
    for on, expected in ((False, "['tensorboard'] set() False"), (True, "['tensorboard', 'mlflow'] {'mlflow'} False")):
        switch(environment, mlflow=on, wandb=False)
        done = bounded([sys.executable, '-c', code, root], env=environment, cwd=tmp_path)
        assert done.stdout.strip().endswith(expected), done.stdout + done.stderr


# The real ones, slow

def wandb_records(file):
    "Records of a .wandb file: blocks of 32 KiB, in them chunks with a checksum, a length and a kind (whole, first, middle, last)."
    from wandb.proto.wandb_internal_pb2 import Record
    data, at, whole = file.read_bytes(), 7, b''
    assert data.startswith(b':W&B')
    while at+7 <= len(data):
        left = 32768 - at%32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack('<IHB', data[at:at+7])
        whole, at = whole + data[at+7:at+7+length], at+7+length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b''


def items(found): return {i.key or '/'.join(i.nested_key): json.loads(i.value_json) for i in found}


def wandb_run(file):
    "id, history by epoch, summary, artifacts with their files, exit codes."
    history, summary, kept, ends, ids = {}, {}, {}, [], []
    for record in wandb_records(file):
        kind = record.WhichOneof('record_type')
        if kind == 'run': ids.append(record.run.run_id)
        if kind == 'summary': summary |= items(record.summary.update)
        if kind == 'exit': ends.append(record.exit.exit_code)
        if kind == 'artifact': kept[record.artifact.type] = [e.path for e in record.artifact.manifest.contents]
        if kind == 'history':
            row = items(record.history.item)
            history.setdefault(row['epoch'], {}).update(row)
    return {*ids}, history, summary, kept, ends


@pytest.fixture(scope='module')
def real(once):
    "A run that was interrupted in its second epoch and went on, with MLflow's file store and W&B offline."
    for name in ('mlflow', 'wandb'):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install '.[trackers]'")
    def make(folder):
        folder.mkdir()
        own = {f'WANDB_{what}_DIR': str(folder/'wandb-own') for what in ('DATA', 'CACHE', 'CONFIG')}
        environment = outside(folder, WANDB_MODE='offline', MLFLOW_ALLOW_FILE_STORE='true',
                              MLFLOW_TRACKING_URI=f'file:{folder}/mlruns', **own)
        switch(environment, mlflow=True, wandb=True)
        interrupted(folder, environment)
        done = command('run', '--resume', '--run-root', folder/'run', env=environment, cwd=folder)
        (folder/'stdout.txt').write_text(done.stdout)
        assert done.returncode == 0, done.stdout + done.stderr
    return once('trackers', make)


def interrupted(folder, environment):
    "Painted scenes and weights that know something, three epochs; Ctrl-C when the first has been logged."
    words = ['run', '--profile', 'demo', '--method', 'ema+qc', '--selection', .25, '--epochs', 3, '--train-max-images', 32,
             '--val-max-images', 16, '--batch', 4, '--run-root', folder/'run']
    with open(folder/'first.txt', 'w') as said:
        run = subprocess.Popen([sys.executable, '-m', 'yolov10_qat', *map(str, words)], env=environment, cwd=folder,
                               stdout=said, stderr=said, start_new_session=True)
        log = Layout(folder/'run').log
        while run.poll() is None and not (log.is_file() and 'epoch 1/3' in log.read_text()): time.sleep(.1)
        assert run.poll() is None, (folder/'first.txt').read_text()
        run.send_signal(signal.SIGINT)
        assert run.wait(120) == 130


@pytest.mark.slow
def test_mlflow_file_store(real, monkeypatch):
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    from mlflow.tracking import MlflowClient
    client = MlflowClient(f'file:{real}/mlruns')
    runs = client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id])
    assert len(runs) == 1 and runs[0].info.status == 'FINISHED', 'a resumed run goes on in the same run of MLflow'
    run, root, expected = runs[0], real/'run', rung_values(real/'run')
    assert {k: run.data.metrics[k] for k in expected} == pytest.approx(expected) and expected['rungs/fp/AP'] > .05
    shares = epoch_shares(root, 'oscillating')
    found = {m.step+1: m.value for m in client.get_metric_history(run.info.run_id, 'oscillation/oscillating')}
    assert found == pytest.approx(shares, rel=1e-4) and [*shares] == [1, 2, 3]
    table = pd.read_csv(Layout(root).results)
    for ours, theirs in (('metrics/mAP50-95(B)', 'metrics/mAP50-95B'), ('raw/mAP50-95(B)', 'raw/mAP50-95B'), ('lr/pg0', 'lr/pg0')):
        found = [m.value for m in client.get_metric_history(run.info.run_id, theirs)]
        assert found == pytest.approx(table[ours].tolist(), abs=2e-5)
    assert run.data.tags['verdict/status'] == load_summary(root).status and run.data.tags[TAG] == load_summary(root).run_id
    kept = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {'report.html', 'run_summary.json', 'delivered.pt', 'weights'} <= kept


@pytest.mark.slow
def test_wandb_offline(real):
    first, second = sorted(real.glob('wandb/offline-run-*/run-*.wandb'))
    ids, history, summary, kept, ends = wandb_run(second)
    assert wandb_run(first)[0] == ids == {load_summary(real/'run').run_id.replace('+', '_')}
    assert (wandb_run(first)[-1], ends) == ([1], [0])  # interrupted, then done
    whole, root = wandb_run(first)[1] | history, real/'run'
    table = pd.read_csv(Layout(root).results)
    assert [*wandb_run(first)[1]] == [1] and [*history] == [2, 3]
    for name in ('metrics/mAP50-95(B)', 'raw/mAP50-95(B)', 'lr/pg0'):
        assert [whole[e][name] for e in (1, 2, 3)] == pytest.approx(table[name].tolist(), abs=2e-5)
    shares = epoch_shares(root, 'oscillating')
    assert {e: whole[e]['oscillation/oscillating'] for e in shares} == pytest.approx(shares, rel=1e-4)
    expected = rung_values(root)
    assert {k: summary[k] for k in expected} == pytest.approx(expected)
    assert summary['verdict/delivered'] == load_summary(root).worth.delivered
    assert {'report.html', 'run_summary.json', 'delivered.pt'} <= {*kept['result']} and kept['model'] == ['best.pt']


@pytest.mark.slow
def test_tensorboard_of_a_resumed_run(real):
    events = EventAccumulator(str(Layout(real/'run').tensorboard)).Reload()
    expected = rung_values(real/'run')
    assert {k: events.Scalars(k)[-1].value for k in expected} == pytest.approx(expected)
    assert {e.step: e.value for e in events.Scalars('oscillation/oscillating')} == pytest.approx(
        epoch_shares(real/'run', 'oscillating'), rel=1e-4)


@pytest.mark.slow
def test_the_report_of_a_tracked_run_is_there(real):
    "W&B's folder has links that lead out of it; none is in the run folder."
    assert (real/'run'/'report.html').is_file() and 'warning' not in (real/'stdout.txt').read_text().replace('warnings', '')
    assert not [p for p in (real/'run').rglob('*') if p.is_symlink() and real/'run' not in p.resolve().parents
                and 'dataset' not in p.parts]
