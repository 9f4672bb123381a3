"What acts on quantised weights during a run, through the command line: every remedy at once, what is written down, resume after kill -9, refusals."
import json
import shutil

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch

from conftest import REPOSITORY, command
from test_run import kill_launcher, same_end, start, wait_for
from yolov10_qat.checkpoint.store import build_model, load_checkpoint
from yolov10_qat.core.layout import Layout
from yolov10_qat.quant.fakequant import learned_step
from yolov10_qat.quant.layers import codes_and_steps, quantized_layers
from yolov10_qat.runs.summary import load_summary

SCHEMA = json.loads((REPOSITORY/'yolov10_qat'/'schemas'/'run_summary.schema.json').read_text())
KEPT = ['model.0.conv', 'model.1.conv']


@pytest.fixture(scope='module')
def words(tiny, tmp_path_factory):
    "A run with everything on: three epochs of two steps."
    keep = tmp_path_factory.mktemp('keep')/'keep-layers.json'
    keep.write_text(json.dumps(dict(format_version=1, bits=8, layers=KEPT)))
    return ['run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 3, '--batch', 2,
            '--lr0', .02, '--ema-decay', .5, '--ema-tau', 2, '--method', 'qc+freeze+dampen+ema', '--scale', 'learned',
            '--bn', 'reestimate', '--bn-batches', 2, '--keep-layers', keep, '--oscillation-momentum', .5,
            '--freeze-threshold-start', .3, '--freeze-threshold', .2, '--dampen-lambda', .01]


@pytest.fixture(scope='module')
def whole(words, once):
    def make(root):
        done = command(*words, '--run-root', root)
        assert done.returncode == 0, done.stderr
    return once('remedies', make)


def test_summary_names_every_constant(whole):
    jsonschema.validate(json.loads((whole/'run_summary.json').read_text()), SCHEMA)
    summary = load_summary(whole)
    q, m = summary.quantization, summary.method
    assert m.variant == 'ema+dampen+freeze+qc'
    assert (m.dampen.strength, m.dampen.aggregation, m.dampen.start, m.dampen.end) == (.01, 'sum', .25, 1.)
    assert (m.freeze.threshold_first, m.freeze.threshold_last, m.freeze.start, m.freeze.end) == (.3, .2, .25, 1.)
    assert (m.batchnorm.strategy, m.batchnorm.batches, m.oscillation.momentum, m.oscillation.threshold,
            m.oscillation.interval) == ('reestimate', 2, .5, .005, 1)
    assert (q.scale, q.scale_init, q.scale_lr, q.layers_raised) == ('learned', 'mse', 1e-3, 2)
    assert [x.name for x in q.layers if x.bits
            == 8] == KEPT and {x.scale for x in q.layers if x.bits} == {'learned'} and 4 < q.average_bits < 4.1
    assert [r.rung for r in summary.metrics.rungs if (r.head, r.metrics_source)
            == ('one2one', 'pycocotools')] == ['fp', 'ptq', 'qat_raw', 'qat_ema', 'bn_reestimated', 'qc']
    assert summary.metrics.qc_gain.before == 'bn_reestimated'
    for name, path in summary.artifacts.items(): assert (whole/path).exists(), name


def test_oscillation_is_written_down(whole):
    table = pd.read_csv(whole/'oscillation.csv')
    layers = len(quantized_layers(build_model(load_checkpoint(Layout(whole).weights/'last.pt'))))
    assert table.epoch.tolist() == [e for e in range(4) for _ in range(layers)]
    first, last = table[table.epoch == 0], table[table.epoch == 3]
    assert not first[['changed', 'oscillating', 'frequency', 'frozen', 'scale_drift']].to_numpy().any()
    assert (last.frozen.between(0, 1).all() and last.frozen.max() > 0 and last.changed.max() > 0
            and last.scale_drift.median() > 0)
    histories = json.loads((whole/'oscillation.json').read_text())
    assert histories['format_version'] == 1 and len(histories['distance']['edges']) == 51
    for layer, weights in zip(histories['distance']['layers'], first.weights): assert sum(layer['start']) <= weights
    before, after = (pd.read_csv(whole/'batchnorm.csv')[k] for k in ('kl_before', 'kl_after'))
    assert np.isfinite(before).all() and np.isfinite(after).all()


def test_frozen_weights_are_frozen_in_the_file(whole):
    "The integers that the stored model rounds to, by Brevitas, are those that the tracker froze."
    content = load_checkpoint(Layout(whole).weights/'last.pt')
    codes = torch.cat(
        [codes_and_steps(layer)[0].flatten() for layer in quantized_layers(build_model(content, 'raw')).values()])
    state = content['resume']['oscillation']
    assert state['frozen_w'].any() and torch.equal(codes[state['frozen_w']], state['integer_w'][state['frozen_w']])


def test_everything_reaches_the_end(whole):
    "Re-estimation and QC leave a model of the same grid: the average's codes, whatever came after it."
    end = build_model(load_checkpoint(whole/'qc/corrected.pt'))
    average = build_model(load_checkpoint(Layout(whole).weights/'last.pt'), 'ema')
    for name, layer in quantized_layers(average).items():
        other = quantized_layers(end)[name]
        assert torch.equal(codes_and_steps(other)[0],
                           codes_and_steps(layer)[0]) and torch.equal(learned_step(other), learned_step(layer))


def test_kill_9_and_resume_with_everything_on(whole, words, tmp_path):
    root = tmp_path/'killed'
    run = start(words, root)
    wait_for(lambda: (root/'ultralytics/train/weights/last.pt').is_file())
    kill_launcher(run, root)
    assert load_checkpoint(Layout(root).weights/'last.pt')['epoch'] < 3
    done = command('run', '--resume', '--run-root', root)
    assert done.returncode == 0, done.stderr
    same_end(whole, root)
    for name in ('oscillation.csv', 'oscillation.json', 'batchnorm.csv'):
        assert (root/name).read_text() == (whole/name).read_text(), name
    assert load_summary(root).metrics == load_summary(whole).metrics


def test_report_shows_the_dynamics(whole):
    page = (whole/'report.html').read_text()
    for piece in ('id="dynamics"', 'oscillation.csv', 'batchnorm.csv', 'keep-layers.json'): assert piece in page, piece


# --- refusals --------------------------------------------------------------------------------------------------------------------------------

REFUSED = {
    'strength':     (['--method', 'dampen', '--dampen-lambda', 0], ['dampen_lambda=0.0 switches off the dampening']),
    'no time':      (['--method', 'freeze'],
                     ['freeze_start=0.25 allows 1 measurements', 'at least 11 are needed', 'train longer']),
    'interval':     (['--oscillation-interval', 7], ['oscillation_interval=7 is longer than the run of 6 steps']),
    'out of range': (['--freeze-threshold', 1.5, '--oscillation-threshold', -1, '--dampen-lambda', -2],
                     ['freeze_threshold=1.5', 'oscillation_threshold=-1', 'dampen_lambda=-2']),
    'all at once':  (
        ['--method', 'dampen+freeze', '--dampen-lambda', 0, '--dampen-start', .9, '--dampen-end', .5,
         '--freeze-threshold', .2, '--bn', 'melt'],
        ["bn='melt'", 'dampen_lambda=0.0', 'dampen_end=0.5 must be above dampen_start=0.9',
         'freeze_threshold=0.2 must not be above freeze_threshold_start=0.1', 'freeze_start=0.25 allows']),}

@pytest.mark.parametrize('case', REFUSED)
def test_refused_before_anything_is_made(case, tiny, tmp_path):
    more, pieces = REFUSED[case]
    done = command('run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 3, '--batch',
                   2, '--train-max-images', 4, '--method', 'ema', '--run-root', tmp_path/'r', *more)
    assert done.returncode == 1 and done.stderr.startswith('error: ') and done.stderr.count('\n') == 1
    for piece in pieces: assert piece in done.stderr, done.stderr
    assert not (tmp_path/'r').exists()


def test_what_only_the_data_can_tell(tiny, tmp_path):
    "With all images there are, steps are known after the data is read; the keep-list is checked against the network in the same line."
    keep = tmp_path/'keep.json'
    keep.write_text(json.dumps(dict(format_version=1, bits=8, layers=['model.0.conf', 'model.1.conv', 'nonsense'])))
    done = command('run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 3, '--batch',
                   2, '--train-max-images', 0, '--method', 'freeze', '--keep-layers', keep, '--run-root', tmp_path/'r')
    assert done.returncode == 1 and done.stderr.count('\n') == 1
    for piece in ('at least 11 are needed', "model.0.conf", "did you mean 'model.0.conv'", 'nonsense'):
        assert piece in done.stderr, done.stderr
    shutil.rmtree(tmp_path/'r')
