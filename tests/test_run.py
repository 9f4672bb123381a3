"Whole runs through the command line: artefacts, exit status, resume after kill -9, interrupt, two processes, orphans."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import jsonschema
import nbformat
import pytest
import torch
from torch.testing import assert_close

from conftest import REPOSITORY, command
from processes import alive, free
from yolov10_qat.checkpoint.store import load_checkpoint
from yolov10_qat.core.config import load_config
from yolov10_qat.core.layout import Layout
from yolov10_qat.runs.summary import find_rung, load_summary

SCHEMA = json.loads((REPOSITORY/'yolov10_qat'/'schemas'/'run_summary.schema.json').read_text())


def start(words, run_root):
    "A run in the background, in a process group of its own."
    return subprocess.Popen([sys.executable, '-m', 'yolov10_qat', *map(str, words), '--run-root', str(run_root)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition, run=None):
    "Until it is so; pytest's limit ends a test that waits in vain, and a run that has ended will not make it so."
    while not condition():
        assert run is None or run.poll() is None, f'ended with status {run.poll()}: {run.stderr.read()}'
        time.sleep(.02)


def same_end(a, b):
    "Two runs ended with the same weights, bit for bit."
    one, two = (load_checkpoint(Layout(r).weights/'last.pt') for r in (a, b))
    assert one['epoch'] == two['epoch']
    for key in ('model_state_dict', 'ema_state_dict'): assert_close(two[key], one[key], rtol=0, atol=0)
    assert_close(two['optimizer']['state'], one['optimizer']['state'], rtol=0, atol=0)
    untimed = [[{k: v for k, v in row.items() if k != 'time'} for row in c['resume']['rows']] for c in (one, two)]
    assert untimed[0] == untimed[1]


@pytest.fixture(scope='module')
def whole(tiny, once):
    "One run that nobody disturbed, and what it printed."
    words = ['run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 3, '--batch', 2,
             '--lr0', 1e-3, '--method', 'ema', '--ema-decay', .5, '--ema-tau', 2, '--save-period', 2]
    def make(folder):
        folder.mkdir()
        done = command(*words, '--run-root', folder/'run')
        assert done.returncode == 0, done.stderr
        (folder/'stdout.txt').write_text(done.stdout)
    folder = once('whole', make)
    return folder/'run', (folder/'stdout.txt').read_text()


def test_everything_is_there(whole):
    root, printed = whole
    for name in ('run_config.yaml', 'run_summary.json', 'summary.md', 'run.ipynb', 'report.html', 'run.log',
                 'dataset/provenance.json', 'dataset/dataset.yaml', 'ultralytics/train/args.yaml',
                 'ultralytics/train/results.csv', 'ultralytics/train/weights/last.pt',
                 'ultralytics/train/weights/best.pt', 'ultralytics/train/weights/epoch002.pt',
                 'evaluation/fp-one2one.json', 'evaluation/qat_ema-one2many-detections.json'):
        assert (root/name).is_file(), name
    assert list((root/'ultralytics/train/tensorboard').glob('events*'))
    assert list((root/'figures').glob('*.svg')) and list((root/'figures').glob('*.png'))
    assert not list(root.rglob('*.part')), 'temporary files stayed behind'
    assert printed.splitlines()[0].startswith('settings:') and printed.splitlines()[-1].endswith('report.html')


def test_summary_keeps_its_contract(whole):
    root, _ = whole
    raw = json.loads((root/'run_summary.json').read_text())
    jsonschema.validate(raw, SCHEMA)
    summary = load_summary(root)
    assert summary.status == 'completed-failed'  # an untrained network on four images never scores
    assert summary.quantization.layers_kept == 1 and summary.method.ema.decay == .5
    assert [h['epoch'] for h in summary.metrics.history] == [1, 2, 3]
    assert {(r.rung, r.head) for r in summary.metrics.rungs} == {
        (r, h) for r in ('fp', 'ptq', 'qat_raw', 'qat_ema', 'export') for h in ('one2one', 'one2many')}
    assert all(r.images == 4 for r in summary.metrics.rungs)
    for name, path in summary.artifacts.items(): assert not os.path.isabs(path) and (root/path).exists(), name


def test_the_terminal_keeps_what_was_found(whole):
    "A line a state and an epoch, with its score; the last lines are the headline of the page."
    root, lines = whole[0], whole[1].splitlines()
    summary = load_summary(root)
    ends = {rung: f'{label} {find_rung(summary, rung).AP:.3f}' for rung, label in
            (('fp', 'FP32'), ('ptq', 'PTQ'), ('qat_raw', 'QAT raw'), ('qat_ema', 'QAT EMA'))}
    epochs = [f'epoch {h["epoch"]}/3: mAP50-95 {h["value"]:.3f}' for h in summary.metrics.history]
    found = [line.split(', best')[0] for line in lines]
    order = [found.index(line) for line in (ends['fp'], ends['ptq'], *epochs)]
    assert order == sorted(order) and {*ends.values()} <= {*found} and 'export/ contains 3 files' in found
    head = (root/'summary.md').read_text().splitlines()[0].removeprefix('# ')
    assert ' '.join(lines)[:-len(lines[-1])].rstrip().endswith(head + '.'), (head, lines[-4:])


def test_notebook_holds_what_a_reader_wants(whole):
    notebook = nbformat.read(whole[0]/'run.ipynb', 4)
    streams = [o for c in notebook.cells if c.cell_type == 'code' for o in c.outputs if o.output_type == 'stream'
               and o.name == 'stdout']
    assert len('\n'.join(o.text for o in streams).splitlines()) < 10
    assert not any(o.output_type == 'error' for c in notebook.cells if c.cell_type == 'code' for o in c.outputs)


def test_same_command_same_weights(whole, tiny_run, tmp_path):
    assert command(*tiny_run, '--save-period', 2, '--run-root', tmp_path/'again').returncode == 0
    same_end(whole[0], tmp_path/'again')


def test_config_repeats_the_run_and_flags_win(whole, tmp_path):
    done = command('run', '--config', whole[0]/'run_config.yaml', '--run-root', tmp_path/'r', '--epochs', 1)
    assert done.returncode == 0, done.stderr
    one, two = (load_config(Layout(r).config).model_dump() for r in (whole[0], tmp_path/'r'))
    assert {k for k in one if one[k] != two[k]} == {'epochs', 'run_root'}


def test_baseline_starts_from_the_same_numbers(whole, tiny_run, tmp_path):
    assert command(*tiny_run, '--method', 'baseline', '--epochs', 1, '--run-root', tmp_path/'b').returncode == 0
    for rung in ('fp', 'ptq'):
        name = f'evaluation/{rung}-one2one-detections.json'
        assert (whole[0]/name).read_text() == (tmp_path/'b'/name).read_text()
    summary = load_summary(tmp_path/'b')
    assert not summary.method.ema.enabled and {r.rung
                                               for r in summary.metrics.rungs} == {'fp', 'ptq', 'qat_raw', 'export'}
    assert all(h['raw'] is None for h in summary.metrics.history)


def kernel_pid(root): return int((root/'.lock').read_text())


def kill_launcher(run, root):
    "The kernel must not train on as an orphan. A dead process may still be seen to hold the folder: its last thread lets go."
    kernel = kernel_pid(root)
    run.kill()
    run.wait()
    wait_for(lambda: not alive(kernel))
    wait_for(lambda: free(root))


def test_kill_9_and_resume(whole, tiny_run, tmp_path):
    root = tmp_path/'killed'
    run = start([*tiny_run, '--save-period', 2], root)
    wait_for(lambda: (root/'ultralytics/train/weights/last.pt').is_file(), run)
    kill_launcher(run, root)
    assert load_summary(root).status == 'incomplete'
    assert load_checkpoint(Layout(root).weights/'last.pt')['epoch'] < 3
    done = command('run', '--resume', '--run-root', root)
    assert done.returncode == 0, done.stderr
    same_end(whole[0], root)
    assert load_summary(root).metrics == load_summary(whole[0]).metrics


def test_interrupt(tiny_run, tmp_path):
    root = tmp_path/'stopped'
    run = start([*tiny_run, '--epochs', 500], root)
    wait_for(lambda: (root/'ultralytics/train/weights/last.pt').is_file(), run)
    busy = command(*tiny_run, '--run-root', root, '--resume', '--epochs', 500)
    assert busy.returncode == 1 and 'is in use by process' in busy.stderr and len(busy.stderr.splitlines()) == 1
    kernel = kernel_pid(root)
    os.kill(run.pid, signal.SIGINT)
    out, err = run.communicate(timeout=300)
    assert not alive(kernel)
    assert run.returncode == 130 and 'Traceback' not in err
    summary = load_summary(root)
    assert summary.status == 'incomplete' and summary.error.type == 'KeyboardInterrupt'
    assert 1 <= summary.error.epoch < 500
    page = (root/'report.html').read_text()
    assert 'INCOMPLETE' in page.upper() and '--resume' in page
    assert (root/'run.ipynb').is_file()


def test_loss_that_becomes_nan(tiny, tmp_path):
    state = torch.load(tiny/'base.pt', weights_only=False)
    state['model'].model[0].conv.weight.data.fill_(float('nan'))
    torch.save(state, tmp_path/'nan.pt')
    done = command('run', '--coco-root', tiny/'coco', '--base', tmp_path/'nan.pt', '--imgsz', 64, '--epochs', 2,
                   '--batch', 2, '--method', 'ema', '--run-root', tmp_path/'nan')
    assert done.returncode == 1 and 'in epoch 1' in done.stderr, done.stderr
    summary = load_summary(tmp_path/'nan')
    assert (summary.status, summary.error.type, summary.error.epoch) == ('incomplete', 'TrainingDiverged', 1)
    assert 'in epoch 1' in (tmp_path/'nan/report.html').read_text()
    notebook = nbformat.read(tmp_path/'nan/run.ipynb', 4)  # kept also when a cell failed
    assert any(o.output_type == 'error' for c in notebook.cells if c.cell_type == 'code' for o in c.outputs)


def test_report_again(whole, tmp_path):
    root = shutil.copytree(whole[0], tmp_path/'run')
    before = (root/'report.html').read_text()
    done = command('report', root)
    assert done.returncode == 0 and done.stdout.strip().endswith('report.html')
    assert len((root/'report.html').read_text()) == pytest.approx(len(before), rel=.05)


def test_report_needs_no_network(whole):
    class Links(HTMLParser):
        found = []
        def handle_starttag(self, tag, attrs):
            self.found += [(tag, k, v) for k, v in attrs if k in ('src', 'href') and v]
    page = (whole[0]/'report.html').read_text()
    links = Links()
    links.feed(page)
    assert links.found and not [x for x in links.found if x[2].startswith(('http', '//'))] and 'url(http' not in page
    assert len(page.encode()) < 2e6


def test_folder_can_be_moved(whole, tmp_path):
    "Relative paths in the summary, and a checkpoint that needs nothing from where it was made."
    moved = tmp_path/'elsewhere'
    subprocess.run(['cp', '-r', whole[0], moved], check=True)
    assert command('report', moved).returncode == 0
    assert command('checkpoint', 'verify', moved/load_summary(moved).artifacts['best']).returncode == 0
