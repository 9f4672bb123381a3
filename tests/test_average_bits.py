"Word lengths by an average: what a run and a ladder make of --average-bits, and what they refuse."
import math
import re

import pytest

from conftest import command
from yolov10_qat.checkpoint.format import deployed
from yolov10_qat.checkpoint.store import load_checkpoint
from yolov10_qat.core.config import RunConfig
from yolov10_qat.core.errors import ConfigError
from yolov10_qat.quant.keeplist import load_keep_list
from yolov10_qat.runs.summary import load_summary


@pytest.fixture(scope='module')
def spread(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp('average')/'run'
    done = command(*words(tiny, root), '--average-bits', 4.5)
    assert done.returncode == 0, done.stderr
    return root


def words(tiny, root):
    return ['run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 1, '--batch', 2,
            '--method', 'baseline', '--scale', 'learned', '--run-root', root]


def test_a_run_has_the_bits_that_were_asked_for(spread):
    manifest = load_checkpoint(spread/'ultralytics'/'train'/'weights'/'last.pt')['manifest']
    weights = {e['name']: (e['bits'], math.prod(e['shape'])) for e in deployed(manifest) if e['bits']}
    mean = sum(b*n for b, n in weights.values())/sum(n for _, n in weights.values())
    assert 4.45 < mean <= 4.5 and load_summary(spread).quantization.average_bits == pytest.approx(mean, abs=1e-3)
    assert load_keep_list(spread/'keep-layers.json') == {n: b for n, (b, _) in weights.items() if b != 4}
    larger = {b: min(n for c, n in weights.values() if c == b) for b in {b for b, _ in weights.values()}}
    assert [larger[b] for b in sorted(larger)] == sorted(larger.values(), reverse=True)  # small layers have more
    assert 'with more bits than the rest by the keep-list' in (spread/'report.html').read_text()


def test_its_list_is_a_list_like_any_other(tiny, spread, tmp_path):
    done = command(*words(tiny, tmp_path/'again'), '--keep-layers', spread/'keep-layers.json')
    assert done.returncode == 0, done.stderr
    assert load_summary(tmp_path/'again').metrics == load_summary(spread).metrics


@pytest.mark.parametrize('values, piece', [
    (dict(average_bits=1.), 'average_bits=1.0: must be greater than 2'), (dict(average_bits=8.5), 'less than or equal to 8'),
    (dict(average_bits=5., keep_layers='auto:4kB'), 'average_bits=5 and keep_layers=auto:4kB both say'),
    (dict(average_bits=5., bits_schedule='8:0,4:1', epochs=3), 'average_bits=5 spreads bits over one grid'),
    (dict(average_bits=5., max_loss=1., method='baseline', scale='learned', init_ptq='closed'), 'max_loss=1 and average_bits=5.0 both say'),
    (dict(max_loss=1., method='baseline'), 'max_loss=1 asks what calibration loses: give init_ptq'),
    (dict(max_loss=1., selection=0.), 'selection must be above 0'),
    (dict(average_bits=5., quantize=False, method='baseline'), 'average_bits=5.0 needs quantised weights')])
def test_contradictions(values, piece):
    with pytest.raises(ConfigError, match=piece): RunConfig(**values)


def test_out_of_reach_is_told_before_training(tiny, tmp_path):
    done = command(*words(tiny, tmp_path/'r'), '--average-bits', 4.5, '--weight-bits', 5)
    assert done.returncode == 1 and 'average_bits=4.5 is out of reach: from 5.00, each layer at its word length, to 8.00' in done.stderr
    assert not (tmp_path/'r'/'ultralytics').exists()


def test_a_run_searches_the_bits_that_a_loss_needs(tmp_path):
    root = tmp_path/'run'
    done = command('run', '--profile', 'demo', '--method', 'baseline', '--scale', 'learned', '--granularity', 'per_channel', '--init-ptq', 'mse+bn', '--weight-bits', 3,
                   '--selection', .3, '--max-loss', 4, '--epochs', 1, '--train-max-images', 64, '--val-max-images', 16, '--run-root', root)
    assert done.returncode == 0, done.stderr
    said, needed = re.search(r'(mse\+bn needs ([\d.]+) bits per weight to lose at most 4 AP points on \d+ training images .*)', done.stdout).groups()
    assert said.split(' (tried')[0] in (root/'run.log').read_text()
    assert float(needed) - .1 < load_summary(root).quantization.average_bits <= float(needed) + .001
    losses = {float(bits): -float(gain) for bits, gain in re.findall(r'([\d.]+) bits ([+-][\d.]+)', said)}
    assert losses[float(needed)] <= 4 < min(loss for bits, loss in losses.items() if bits < float(needed))


def test_a_ladder_is_asked_by_bits_or_by_loss(tmp_path):
    done = command('ptq', 'demo', '--coco-root', 'demo', '--out', tmp_path/'l', '--max-loss', 1, '--average-bits', 4.5)
    assert done.returncode == 2 and 'give --average-bits or --max-loss, not both' in done.stderr and not (tmp_path/'l').exists()


def test_averages_of_a_ladder_that_are_none(tiny, tmp_path):
    done = command('ptq', 'demo', '--coco-root', 'demo', '--out', tmp_path/'l', '--average-bits', '4,much')
    assert done.returncode in (1, 2) and "--average-bits '4,much' is no list of numbers" in done.stderr
    assert not (tmp_path/'l').exists()
