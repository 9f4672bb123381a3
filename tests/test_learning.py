"A run that learns: its numbers say the same wherever they stand, and its checkpoints are the ones that they name."
import pandas as pd
import pytest
import torch

from yolov10_qat.checkpoint.store import load_checkpoint
from yolov10_qat.core.config import PRIMARY
from yolov10_qat.core.layout import Layout
from yolov10_qat.deploy.detectors import evaluate_file
from yolov10_qat.runs.results import RAW
from yolov10_qat.runs.summary import find_rung, load_summary

ULTRALYTICS = 'ultralytics_val'


@pytest.fixture(scope='module')
def summary(demo_run): return load_summary(demo_run)


@pytest.fixture(scope='module')
def table(demo_run): return pd.read_csv(Layout(demo_run).results).set_index('epoch')


def ap(summary, rung, source=ULTRALYTICS): return find_rung(summary, rung, 'one2one', source).AP


def test_training_beats_rounding(summary):
    "Rounding alone costs most of the score; training brings a good part of it back, and the run says that it held."
    fp, rounded, trained = (ap(summary, rung) for rung in ('fp', 'ptq', 'qat_ema'))
    assert rounded + .1 < trained < fp + .05
    assert summary.status == 'completed-success' and summary.stability.collapsed is False


def test_history_is_the_table_and_ends_in_the_rung_that_it_names(summary, table):
    history = summary.metrics.history
    assert [h['epoch'] for h in history] == table.index.tolist()
    assert [h['value'] for h in history] == pytest.approx(table[PRIMARY].tolist(), abs=1e-4)
    assert [h['raw'] for h in history] == pytest.approx(table[RAW].tolist(), abs=1e-4)
    assert history[-1]['value'] == pytest.approx(ap(summary, 'qat_ema'), abs=1e-4)
    assert history[-1]['raw'] == pytest.approx(ap(summary, 'qat_raw'), abs=1e-4)


def test_delivered_is_what_export_holds(demo_run, summary):
    "The packed file, scored once more, has the AP of the state that is named, and of no other."
    packed = next(e for e in summary.exports if e.format == 'packed')
    scores, _ = evaluate_file(demo_run/packed.path, demo_run/'coco', 160, val_max_images=48, batch=16)
    aps = {rung: ap(summary, rung, 'pycocotools') for rung in ('ptq', 'qat_raw', 'qat_ema', 'qc')}
    found = scores['one2one'].pycocotools['AP']
    assert summary.worth.delivered == 'qc' == min(aps, key=lambda rung: abs(aps[rung]-found)), (aps, found)
    assert found == pytest.approx(aps['qc'], abs=2e-3)


def test_what_the_delivered_model_is_worth(demo_run, summary):
    fp, end = (find_rung(summary, rung).AP for rung in ('fp', 'qc'))
    w = summary.worth
    assert w.share == end/fp and w.interval.low < w.share < w.interval.high and w.interval.images == 48
    assert w.grade == ('green' if end >= .97*fp else 'amber' if end >= .85*fp else 'red')


def test_raw_and_averaged_weights_are_two_things(summary, table):
    assert (table[PRIMARY] - table[RAW]).abs().max() > 1e-3
    assert ap(summary, 'qat_raw') != ap(summary, 'qat_ema')


def test_best_is_the_best_epoch(demo_run, summary, table):
    best = load_checkpoint(Layout(demo_run).weights/'best.pt')
    assert best['epoch'] == summary.metrics.best_epoch == table[PRIMARY].idxmax()
    snapshot = load_checkpoint(Layout(demo_run).weights/f'epoch{best["epoch"]:03d}.pt')
    for key in ('model_state_dict', 'ema_state_dict'):
        torch.testing.assert_close(best[key], snapshot[key], rtol=0, atol=0)


@pytest.mark.parametrize('weights, rung', [('raw', 'qat_raw'), ('ema', 'qat_ema')])
def test_scores_of_the_last_checkpoint_reproduce(demo_run, summary, weights, rung):
    scores, _ = evaluate_file(Layout(demo_run).weights/'last.pt', demo_run/'coco', 160, weights=weights, val_max_images=48,
                              batch=16)
    assert scores['one2one'].pycocotools['AP'] == pytest.approx(ap(summary, rung, 'pycocotools'), abs=2e-3)


def test_the_best_checkpoint_scores_what_its_epoch_did(demo_run, table):
    "pycocotools and Ultralytics' validator differ by little; epochs differ by more."
    best = load_checkpoint(Layout(demo_run).weights/'best.pt')['epoch']
    scores, _ = evaluate_file(Layout(demo_run).weights/'best.pt', demo_run/'coco', 160, val_max_images=48)
    assert scores['one2one'].pycocotools['AP'] == pytest.approx(table[PRIMARY][best], abs=.02)
