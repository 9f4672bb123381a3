"Twins from random weights, through the command line: what they share, what stops and goes on, what is refused, and the publication of one."
import json
import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from conftest import command
from yolov10_qat.checkpoint.store import load_checkpoint
from yolov10_qat.core.config import load_config
from yolov10_qat.runs.summary import load_summary

QAT, FP16 = 'qat-w4a16', 'fp16'
PHASES = '32:0,4:1'


def words(tiny, root):
    return ['--run-root', root, '--coco-root', tiny/'coco', '--variant', 'yolo10n', '--imgsz', 64, '--batch', 2,
            '--save-period', 1, '--keep-snapshots', 1]


@pytest.fixture(scope='module')
def twins(tiny, once): return once('scratch', lambda root: train_both(tiny, root))


def train_both(tiny, root):
    for twin, more in ((FP16, ['--epochs', 2]),
                       (QAT, ['--epochs', 2, '--bits-schedule', PHASES, '--no-snapshot-optimizer', '--fraction', 1])):
        done = command('scratch', twin, *words(tiny, root), *more)
        assert done.returncode == 0, done.stderr
    return root


def weights(root): return root/QAT/'ultralytics'/'train'/'weights'


def test_one_view_for_both(twins):
    assert (twins/FP16/'dataset').resolve() == (twins/QAT/'dataset').resolve() == (twins/'dataset').resolve()
    a, b = load_summary(twins/FP16), load_summary(twins/QAT)
    assert a.dataset.fingerprint == b.dataset.fingerprint and a.dataset.dataset_yaml == 'dataset/dataset.yaml'
    # the same random weights
    assert (a.model.checkpoint, a.model.checkpoint_sha256) == ('random', b.model.checkpoint_sha256)
    assert (a.quantization.mode, a.quantization.average_bits, b.quantization.mode) == ('float', 32, 'w4a16')
    assert {r.rung for r in a.metrics.rungs} == {'fp', 'ptq'} and {
        r.rung for r in b.metrics.rungs} == {'qat_raw', 'qat_ema', 'export'}


def test_recipe_lies_in_the_run(twins):
    assert 'optimizer: SGD' in (twins/QAT/'recipe.yaml').read_text()
    given = load_summary(twins/QAT).training.overrides
    assert (given['optimizer'], given['nbs'], given['momentum'], given['mosaic'],
            given['close_mosaic']) == ('SGD', 64, .937, 1., 10)


def test_word_length_falls(twins):
    summary, table = load_summary(twins/QAT), pd.read_csv(twins/QAT/'ultralytics/train/results.csv')
    assert (summary.quantization.schedule, table.bits.tolist()) == ([[0, 32], [1, 4]], [32, 4])
    assert pd.read_csv(twins/QAT/'oscillation.csv').epoch.unique().tolist() == [2]


def test_snapshots(twins):
    assert [p.name for p in weights(twins).glob('epoch*.pt')] == ['epoch002.pt']
    assert load_checkpoint(weights(twins)/'epoch002.pt')['optimizer'] is None
    assert 'a checkpoint takes about' in (twins/QAT/'run.log').read_text()


def test_every_checkpoint_opens_by_the_documented_recipe(twins):
    import torch
    files = sorted(twins.glob('*/ultralytics/train/weights/*.pt'))
    assert {f.name for f in files} == {'last.pt', 'best.pt', 'epoch002.pt'} and len(files) == 6
    for file in files:
        safe = torch.load(file, weights_only=True)
        ckpt = torch.load(file, map_location='cpu', weights_only=False)
        state = ckpt["ema_state_dict"] or ckpt["model_state_dict"]
        assert set(safe) == set(ckpt) >= {'format_version', 'epoch', 'model_state_dict', 'ema_state_dict', 'optimizer',
                                          'train_args', 'date'}
        assert ckpt['epoch'] in (1, 2) and all(t.dtype != torch.float16 for t in state.values()) and all(
            isinstance(v, (int, float, bool, str, type(None))) for v in ckpt['train_args'].values())


def test_reports_and_comparison(twins, tmp_path):
    assert 'trained in floating point' in (twins/FP16/'report.html').read_text()
    done = command('summarize', twins, '--out', tmp_path/'twins')
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path/'twins'/'comparison.json').read_text())
    pair, = found['twins']
    assert (pair['mode'], pair['end'], pair['images']) == ('w4a16', 'qat_ema', 4) and sorted(
        v['mode'] for v in found['variants']) == ['float', 'w4a16']
    page = (tmp_path/'twins'/'report.html').read_text()
    assert 'id="twins"' in page and 'from random weights, seed 0' in page


def test_more_epochs_on_resume(twins, tmp_path):
    root = tmp_path/'more'
    shutil.copytree(twins, root, symlinks=True)
    done = command('scratch', FP16, '--resume', '--epochs', 3, '--run-root', root)
    assert done.returncode == 0, done.stderr
    summary = load_summary(root/FP16)
    assert [r.model_dump() for r in summary.raised] == [dict(after=2, before=2, epochs=3)]
    assert (len(summary.metrics.history), load_config(root/FP16/'run_config.yaml').epochs) == (3, 3)
    assert 'from 2 to 3 epochs' in (root/FP16/'report.html').read_text()
    done = command('scratch', FP16, '--resume', '--epochs', 1, '--run-root', root)
    assert done.returncode == 1 and 'can only be raised' in done.stderr


def torn(path): path.write_bytes(path.read_bytes()[:50_000])
def zeroed(path): path.write_bytes(bytes(path.stat().st_size))
def swapped(path):
    import torch
    content = torch.load(path, weights_only=True)
    content['resume']['identity']['seed'] = 7
    torch.save(content, path)

@pytest.mark.parametrize('damage', [torn, zeroed, swapped])
def test_damaged_last(damage, twins, tmp_path):
    root = tmp_path/'damaged'
    shutil.copytree(twins, root, symlinks=True)
    last = root/FP16/'ultralytics/train/weights/last.pt'
    damage(last)
    done = command('scratch', FP16, '--resume', '--run-root', root)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert 'passed over' in said and re.search(r'going on from (best|epoch002).pt, the newest whole checkpoint, after '
                                               r'epoch \d', said)
    assert load_checkpoint(last)['epoch'] == 2


def test_worker(twins, tmp_path):
    "What torchrun starts on each node; there is nothing left to train here."
    assert command('worker', twins/FP16).returncode == 0
    done = command('worker', tmp_path)
    assert done.returncode == 1 and 'start the run on one machine first' in done.stderr


def test_refused_resumes(twins, tiny, tmp_path):
    root = tmp_path/'other'
    shutil.copytree(twins, root, symlinks=True)
    done = command('scratch', QAT, '--resume', '--run-root', root, '--weight-bits', 3, '--bits-schedule', '32:0,3:1',
                   '--variant', 'yolo10s')
    assert done.returncode == 1
    for piece in ('weight_bits=3 (it has 4)', "bits_schedule='32:0,3:1' (it has '32:0,4:1')",
                  "variant='yolo10s' (it has 'yolo10n')"):
        assert piece in done.stderr
    provenance = root/'dataset'/'provenance.json'
    old = json.loads(provenance.read_text())['fingerprint']
    provenance.write_text(provenance.read_text().replace(old, 'f'*64))
    done = command('scratch', QAT, '--resume', '--run-root', root, '--epochs', 3)
    assert done.returncode == 1 and f"data '{old}' there, '{'f'*64}' here" in done.stderr, done.stderr


REFUSED = {
    'up again':      ([QAT, '--bits-schedule', '4:0,8:1'], ['goes up again']),
    'too late':      ([QAT, '--bits-schedule', '8:0,4:300'], ['after epoch 300, the run has 300 epochs']),
    'warm too long': ([QAT, '--quantize-from-epoch', 400], ['quantize_from_epoch=400 reaches 4 bits after epoch 400']),
    'twin remedies': ([FP16, '--method', 'ema+qc', '--bits-schedule', '8:0,4:1'],
                      ['method=ema+qc needs quantised weights', 'bits_schedule=8:0,4:1 needs quantised weights']),
    'recipe':        ([FP16, '--recipe', 'nowhere.yaml'], ['recipe=nowhere.yaml: no such file']),}

@pytest.mark.parametrize('case', REFUSED)
def test_refused_before_anything_is_made(case, tmp_path):
    given, pieces = REFUSED[case]
    done = command('scratch', given[0], '--run-root', tmp_path/'r', *given[1:])
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    for piece in pieces: assert piece in done.stderr, done.stderr
    assert not (tmp_path/'r').exists()


def test_publication_of_the_twin(twins, tmp_path):
    done = command('publish', twins/QAT, '--name', '2026-01-02-twin', '--checkpoints', 'best,last,every:2',
                   cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place = tmp_path/'reports'/'2026-01-02-twin'
    page = (place/'README.md').read_text()
    for piece in ('`yolov10-qat scratch qat-w4a16`', 'SGD, lr0 0.01', 'momentum 0.937',
                  f'word length by epochs {PHASES}', 'checkpoints/epoch002.pt', 'recipe.yaml'):
        assert piece in page, piece
    # the loading notes again, by somebody who has only the folder
    for code in re.findall(r'```python\n(.+?)```', page, re.S):
        subprocess.run([sys.executable, '-c', code], cwd=place, check=True, capture_output=True)
    assert load_config(place/'training-config.yaml').bits_schedule == PHASES
