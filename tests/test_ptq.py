"Post-training quantisation: what a shell gets, a run that starts from it, and the ladder's format as it was written first."
import json
from pathlib import Path

import pytest
import torch

from conftest import REPOSITORY, command
from test_report import Page, check_offline
from yolov10_qat.checkpoint.store import build_model, load_checkpoint
from yolov10_qat.cli import _methods
from yolov10_qat.core.config import RunConfig
from yolov10_qat.core.errors import ConfigError
from yolov10_qat.data.scenes import write_scenes
from yolov10_qat.deploy.detectors import evaluate_file
from yolov10_qat.quant.layers import codes_and_steps, quantized_layers
from yolov10_qat.runs.summary import load_summary
from yolov10_qat.studies.ptq_ladder import ladder_headline, lead_sentence, load_ladder, render_ladder, run_ladder


@pytest.fixture(scope='module')
def scenes(tmp_path_factory): return write_scenes(tmp_path_factory.mktemp('ptq')/'coco', 16, 16, side=160)


@pytest.fixture(scope='module')
def climbed(tmp_path_factory, scenes):
    folder = tmp_path_factory.mktemp('ptq')/'ladder'
    done = command('ptq', 'demo', '--coco-root', scenes, '--out', folder, '--method', 'bias,rtn,bn', '--imgsz', 160,
                   '--calibration-images', 16, '--granularity', 'per_tensor')
    assert done.returncode == 0, done.stderr
    return folder, done


def codes(checkpoint):
    return {n: codes_and_steps(layer)[0] for n,
            layer in quantized_layers(build_model(load_checkpoint(checkpoint))).items()}


def test_shell(climbed):
    folder, done = climbed
    ladder = load_ladder(folder)
    assert [s.method for s in ladder.steps] == [
        'fp', 'bias', 'rtn', 'bn'] and ladder.settings.val_images == 16 and ladder.settings.calibration_images == 16
    ap = {s.method: s.one2one['AP'] for s in ladder.steps}
    assert ap['rtn'] < ap['bias'] < ap['fp'] and ap['rtn'] < ap['bn'] < ap['fp']
    lines = done.stdout.splitlines()
    assert lines[0].startswith('settings: ') and lines[-1] == f"report: {(folder/'report.html').resolve()}"
    assert f"rtn                  AP {ap['rtn']:.4f}" in done.stdout and ladder_headline(ladder) in done.stdout
    assert ladder.lead.low <= ladder.lead.difference <= ladder.lead.high and ladder.lead.images == 16


def test_every_rung_is_a_checkpoint_with_its_score(climbed, scenes):
    folder, _ = climbed
    for s in load_ladder(folder).steps[1:]:
        scores, _ = evaluate_file(folder/s.checkpoint, scenes, 160)
        assert {head: found.pycocotools for head,
                found in scores.items()} == {'one2one': s.one2one, 'one2many': s.one2many}


def test_errors_rank_methods_as_ap_does_and_vanish_at_eight_bits(climbed, scenes, tmp_path):
    rtn, bn = (next(s for s in load_ladder(climbed[0]).steps if s.method == m) for m in ('rtn', 'bn'))
    for name in ('p3', 'box', 'cls'): assert getattr(rtn.errors, name) > getattr(bn.errors, name) > 0, name
    assert load_ladder(climbed[0]).steps[0].errors is None
    fine = run_ladder('demo', scenes, tmp_path/'fine', ['mse'], bits=8, imgsz=160, val_max_images=2).steps[-1].errors
    assert fine.p3 < .01*rtn.errors.p3 and fine.box < .01*rtn.errors.box and .9 < fine.confident < 1.1


def test_corrections_change_no_integer(climbed):
    folder, _ = climbed
    plain, bias, bn = (codes(folder/f'{m}.pt') for m in ('rtn', 'bias', 'bn'))
    for name in plain:
        torch.testing.assert_close(bias[name], plain[name], rtol=0, atol=0)
        torch.testing.assert_close(bn[name], plain[name], rtol=0, atol=0)


def test_page(climbed):
    folder, _ = climbed
    html = (folder/'report.html').read_text(encoding='utf-8')
    page = Page(html)
    check_offline(page, html)
    for word in (ladder_headline(load_ladder(folder)), lead_sentence(load_ladder(folder).lead), 'Small subsets mislead',
                 'yolov10-qat run --init-ptq', 'without their labels'):
        assert word in page.text(), word
    for name in ('rtn.pt', 'bias.pt', 'figures/ladder.svg', 'figures/ladder.png'):
        assert f'href="{name}"' in html and (folder/name).is_file()


def test_other_settings_are_another_ladder(climbed, scenes):
    folder, _ = climbed
    done = command('ptq', 'demo', '--coco-root', scenes, '--out', folder, '--method', 'rtn', '--imgsz', 192,
                   '--calibration-images', 16, '--granularity', 'per_tensor')
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and 'imgsz 160 there, 192 here' in done.stderr
    done = command('ptq', 'demo', '--coco-root', scenes, '--out', folder, '--method', 'rtn,gtpq')
    assert done.returncode == 1 and "did you mean 'gptq'" in done.stderr


@pytest.mark.parametrize('method, more, rung', [('bias+mse', ['--granularity', 'per_tensor'], 'mse+bias'),
                                                ('closed', ['--granularity', 'per_channel', '--average-bits', 4.5], 'closed@4.5')])
def test_run_starts_from_it(method, more, rung, scenes, tmp_path):
    "With hardly any learning rate a run ends with the integers that it was given, and its PTQ rung is that of the ladder."
    run = ['run', '--profile', 'demo', '--coco-root', scenes, '--init-ptq', method, '--scale', 'learned',
           '--train-max-images', 16, '--val-max-images', 16, '--epochs', 1, '--method', 'baseline', '--bn', 'freeze',
           '--lr0', 1e-12, '--scale-lr', 1e-12, *more]
    done = command(*run, '--run-root', tmp_path/'run')
    assert done.returncode == 0, done.stderr
    summary = load_summary(tmp_path/'run')
    assert summary.quantization.init_ptq == rung.partition('@')[0] and summary.artifacts['calibrated'] == 'ptq/calibrated.pt'
    given, ended = codes(tmp_path/'run'/'ptq'/'calibrated.pt'), codes(
        tmp_path/'run'/'ultralytics'/'train'/'weights'/'last.pt')
    for name in given: torch.testing.assert_close(ended[name], given[name], rtol=0, atol=0)
    ladder = command('ptq', 'demo', '--coco-root', scenes, '--out', tmp_path/'ladder', '--method', method,
                     '--imgsz', 160, '--calibration-images', 16, *more)
    assert ladder.returncode == 0, ladder.stderr
    scored = next(r for r in summary.metrics.rungs if (r.rung, r.head, r.metrics_source)
                  == ('ptq', 'one2one', 'pycocotools'))
    climbed = load_ladder(tmp_path/'ladder').steps[1]
    assert (climbed.method, climbed.one2one['AP']) == (rung, scored.AP) and scored.AP > .1


@pytest.mark.parametrize('values, piece',
                         [(dict(init_ptq='gptq'), 'init_ptq=gptq needs scale=learned'),
                          (dict(init_ptq='closed+bn', scale='learned', granularity='per_tensor'), 'take per_channel, per_group, or gptq'),
                          (dict(init_ptq='gptq', scale='learned', base='random'), 'random ones have learned nothing'),
                          (dict(init_ptq='gptq', scale='learned', quantize_from_epoch=1, epochs=3),
                           'calibrates one grid'), (dict(init_ptq='gtpq', scale='learned'), "did you mean 'gptq'")])
def test_start_that_makes_no_sense(values, piece):
    with pytest.raises(ConfigError, match=piece): RunConfig(**values)


def test_closed_is_nearer_than_rounding(scenes, tmp_path):
    "On scenes that it has not seen, and its checkpoint is what was scored; too few images are refused before an hour is spent."
    ladder = run_ladder('demo', scenes, tmp_path/'ladder', ['rtn', 'closed'], imgsz=160, calibration=16, bits=3)
    fp, rtn, closed = (s.one2one['AP'] for s in ladder.steps)
    assert rtn < fp/2 < .75*fp < closed
    scores, _ = evaluate_file(tmp_path/'ladder'/'closed.pt', scenes, 160)
    assert scores['one2one'].pycocotools['AP'] == closed
    with pytest.raises(ValueError, match='15 training images are too few to fit weights to, 16 are the least'):
        run_ladder('demo', scenes, tmp_path/'few', ['closed'], imgsz=160, calibration=15)


def test_first_ladder(tmp_path):
    text = (REPOSITORY/'tests'/'examples'/'ladder-v1.json').read_text()
    (tmp_path/'ladder.json').write_text(text)
    ladder = load_ladder(tmp_path)
    assert (ladder.version, ladder.settings.imgsz,
            [s.method for s in ladder.steps]) == (1, 160, ['fp', 'bias', 'rtn', 'bn'])
    assert render_ladder(tmp_path).is_file()
    for wrong, piece in ((text.replace('"version": 1', '"version": 2'), 'has version 2; this version reads 1'),
                         (text[:99], 'is not JSON'), (json.dumps({'version': 1}), 'field required')):
        (tmp_path/'ladder.json').write_text(wrong)
        with pytest.raises(ValueError, match=piece): load_ladder(tmp_path)
    with pytest.raises(FileNotFoundError): load_ladder(Path(tmp_path)/'none')


def test_images_that_are_few_are_told_and_too_few_refused_before_the_first_rung(scenes, tmp_path):
    said = []
    run_ladder('demo', scenes, tmp_path/'ladder', ['closed'], imgsz=32, calibration=16, val_max_images=1, tell=said.append)
    assert said == ['16 training images are few for calibration in closed form: below 256 it loses AP, the more the fewer there are']
    with pytest.raises(ConfigError, match='15 training images are too few'):
        run_ladder('demo', scenes, tmp_path/'few', ['rtn', 'closed'], imgsz=32, calibration=15, val_max_images=1)
    assert not (tmp_path/'few').exists()


def test_methods_that_nobody_named_suit_the_grid():
    channels = _methods(None, 'per_channel', None)
    assert _methods(None, 'per_tensor', None) == [m for m in channels if m != 'closed'] and 'closed' in channels
    assert _methods(None, 'per_group', 32) == [m for m in channels if m not in ('gptq', 'gpfq')]
    assert _methods('bn+mse', 'per_tensor', None) == ['mse+bn']
