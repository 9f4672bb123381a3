"What is said about a fall: the real collapse, flags that the command takes, and tables of every shape."
import random
import re

import pandas as pd
import pytest

from yolov10_qat.core.config import PRIMARY, RunConfig
from yolov10_qat.runs.diagnosis import MEASURES, RAW, diagnose
from yolov10_qat.runs.results import read_results
from yolov10_qat.runs.summary import Diagnosis, Rung

LAYERS = {'model.0.conv': 'conv', 'model.4.m.0.cv1.conv': 'depthwise', 'model.8.conv': 'pointwise'}
RUNGS = [Rung(rung=r, head='one2one', metrics_source=s, images=100, AP=v, AP50=v, AP75=v) for r,
         v in (('fp', .602), ('ptq', .128)) for s in ('pycocotools', 'ultralytics_val')]


def test_the_collapse_that_started_this_project(shared):
    config = RunConfig(variant='yolo10m', method='baseline', granularity='per_tensor', quantize_dfl=True,
                       profile='full', ungated=True)
    d = diagnose(read_results(shared/'logs/yolov10m-w4a16-scratch-collapse.csv'), None, config, RUNGS)
    assert (round(d.peak, 3), d.peak_epoch, round(d.end, 3),
            d.end_epoch) == (.226, 29, .005, 70) and d.fell_in_epochs == 3
    assert ('peaked at 0.226 in epoch 29 and ended at 0.005 in epoch 70: 98% of the peak is gone' in d.sentences[0]
            and 'not recorded' in d.sentences[-1])
    assert any('--granularity per_channel' in a.text and '0.128 of 0.602' in a.because for a in d.advice)
    assert diagnose(read_results(shared/'logs/yolov10n-fp32-500epochs.csv'), None, config) is None


def made_up(seed):
    "Tables and a configuration as chance will have them; a third of the scores fall, some are no number."
    dice = random.Random(seed)
    epochs, method = dice.randrange(1, 14), dice.choice(
        ['baseline', 'ema', 'ema+dampen', 'freeze', 'ema+qc', 'dampen+freeze'])
    level = [dice.random()*dice.choice([0, .3, 1])]
    for _ in range(epochs-1): level.append(max(0., level[-1]*dice.choice([.3, .8, 1.05, 1.3])))
    results = pd.DataFrame(
        {'epoch': range(1, epochs+1), PRIMARY: [v if dice.random() < .95 else float('nan') for v in level]})
    if dice.random() < .8: results['train/box_loss'] = [5*dice.choice([.5, 1, 1, 2, float('nan')]) for _ in level]
    if dice.random() < .8: results['lr/pg0'] = [1e-4*(1-i/epochs) for i in range(epochs)]
    if 'ema' in method: results[RAW] = [dice.random()*.3 for _ in level]
    rows = [
        dict(epoch=e, layer=n, kind=k, weights=dice.randrange(9, 5000),
             oscillating=dice.random()*dice.choice([.01, .9]), scale_drift=dice.random(),
             bn_kl=dice.choice([None, dice.random()*3])) for e in range(dice.randrange(1, epochs+2)) for n,
        k in LAYERS.items()]
    config = RunConfig(method=method, profile='full', granularity=dice.choice(['per_channel', 'per_tensor']),
                       bn=dice.choice(['train', 'freeze', 'reestimate']), keep_layers=dice.choice([None, 'auto:90000']))
    return results, dice.choice([None, pd.DataFrame(rows)]), config, dice.choice([(), RUNGS])


@pytest.mark.parametrize('seeds', [range(i, 400, 8) for i in range(8)], ids=lambda r: f'from {r.start}')
def test_any_table_gets_an_answer_that_can_be_used(seeds):
    "It is a valid block, cause is denied wherever the word falls, what is said is no number twice, and each flag is one that this run did not have and that the command takes."
    said = 0
    for seed in seeds:
        results, oscillation, config, rungs = made_up(seed)
        d = diagnose(results, oscillation, config, rungs)
        if d is None: continue
        said += 1
        assert Diagnosis.model_validate_json(d.model_dump_json()) == d and d.sentences and 0 <= d.lost <= 1
        text = ' '.join(d.sentences)
        assert text.count('caus') == text.count('does not say that one caused the other') and 'nan' not in text.lower()
        assert len(d.sentences) <= 2 or d.lost > .5 and len(results) >= 3
        for m in d.moved: assert any(m.name.startswith(x.name) for x in MEASURES.values())
        for a in d.advice:
            assert re.search(r'\d', a.because), a
            flags = [(field.replace('-', '_'), value) for field,
                     value in re.findall(r'--([a-z0-9-]+) ([\w.+-]+\b)', a.text) if value != 'FILE']
            for field, value in flags:
                assert getattr(RunConfig(**(config.model_dump() | dict(flags) | {field: value})),
                               field) != getattr(config, field), (field, value)
    assert said


def test_nothing_to_say():
    table = pd.DataFrame({'epoch': [1, 2, 3, 4], PRIMARY: [.1, .2, .21, .205]})
    assert diagnose(table, None, RunConfig()) is None and diagnose(table[:1], None, RunConfig()) is None


def test_a_rate_that_climbs_with_the_loss():
    "Warm-up past what the weights bear, as measured on the demo: the score peaks while the rate still climbs."
    results = pd.DataFrame(
        {'epoch': range(1, 9), PRIMARY: [.263, .277, 0, 0, .001, .002, .004, 0],
         'train/box_loss': [4.5, 4.43, 5.6, 5.9, 5.7, 5.5, 5.3, 5.14],
         'lr/pg0': [.002, .0039, .006, .008, .01, .012, .012, .012]})
    d = diagnose(results, None, RunConfig(profile='demo', method='baseline', lr0=.012, lrf=1., warmup_epochs=6))
    assert d.advice[0].text == 'A third of the learning rate: --lr0 0.004' and 'with a learning rate of 0.0039 at the peak and 0.012 at the end' in d.advice[0].because
