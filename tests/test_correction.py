"QC: the identity changes nothing, folding changes nothing, training changes two numbers a channel; a whole run with it; and the interval of its gain."
import json
from copy import deepcopy

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from conftest import command
from test_run import kill_launcher, start, wait_for
from yolov10_qat.checkpoint.store import load_checkpoint, open_base, verify_checkpoint
from yolov10_qat.core.config import RunConfig, save_config
from yolov10_qat.core.layout import Layout
from yolov10_qat.core.methods import QC_SCOPES
from yolov10_qat.data.view import build_view
from yolov10_qat.evaluate.bootstrap import _matched, _weighted_ap, bootstrap_difference
from yolov10_qat.evaluate.coco_ap import coco_scores
from yolov10_qat.quant.layers import deployable, plan, quantize
from yolov10_qat.runs.summary import find_rung, load_summary
from yolov10_qat.train.float_trainer import overrides
from yolov10_qat.train.qat_trainer import QATTrainer
from yolov10_qat.train.qc import Corrected, QCTrainer, correct, fold_qc, insert_qc, qc_overrides

# --- insert and fold -------------------------------------------------------------------------------------------------------------------------

def network(variant='n', quantised=True):
    torch.manual_seed(0)
    model = DetectionModel(f'yolov10{variant}.yaml', nc=3, verbose=False)
    return (quantize(model, plan(model)) if quantised else model).eval()


def outputs(model, x):
    "Both heads before their decoding."
    with torch.no_grad(): raw = model(x)
    raw = raw[1] if isinstance(raw, tuple) else raw
    return [t for head in ('one2one', 'one2many') for t in (raw[head]['boxes'], raw[head]['scores'])]


def relative(one, two, x):
    return max(float((a-b).abs().max()/a.abs().max()) for a, b in zip(outputs(one, x), outputs(two, x)))


def shake(model):
    "Corrections far larger than training makes them."
    torch.manual_seed(1)
    for m in model.modules():
        if isinstance(m, Corrected): nn.init.uniform_(m.gamma, .8, 1.2); nn.init.uniform_(m.beta, -.1, .1)
    return model


@pytest.mark.parametrize('variant', ['n', 'm'])
def test_every_batch_norm_gets_its_correction(variant):
    model = network(variant, quantised=False)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    last, backbone = len(model.model)-1, len(model.yaml['backbone'])
    expected = {'all': norms, 'no-head': [n for n in norms if int(n.split('.')[1]) < last],
                'backbone': [n for n in norms if int(n.split('.')[1]) < backbone]}
    for scope in QC_SCOPES:
        names = insert_qc(deepcopy(model), scope)
        assert [n.removesuffix('conv')+'bn' for n in names] == expected[scope]


@pytest.mark.parametrize('scope', QC_SCOPES)
@pytest.mark.parametrize('training', [False, True])
def test_identity_changes_no_bit(scope, training):
    plain, x = network(), torch.rand(1, 3, 64, 64)
    corrected = deepcopy(plain)
    insert_qc(corrected, scope)
    for a, b in zip(outputs(plain.train(training), x), outputs(corrected.train(training), x)): assert torch.equal(a, b)


@pytest.fixture(scope='module')
def real(request):
    "The real YOLOv10n, quantised, where there is one."
    shared = request.getfixturevalue('shared')
    names = [c['name']
             for c in json.loads((shared/'coco-mini/annotations/instances_val2017.json').read_text())['categories']]
    base = open_base(shared/'weights'/'yolov10n-coco.pt', 'yolo10n', names)
    return quantize(base, plan(base)).eval()


@pytest.mark.parametrize('which', ['random', 'real'])
@pytest.mark.parametrize('dtype,limit', [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize('rounded', [False, True], ids=['quantised', 'deployable'])
def test_folded_is_the_same_function(which, dtype, limit, rounded, request):
    model = network() if which == 'random' else deepcopy(request.getfixturevalue('real'))
    if rounded: model = deployable(model)
    model, x = model.to(dtype), torch.rand(1, 3, 160, 160, dtype=dtype)
    keys, kinds, codes = list(model.state_dict()), [type(m) for m in model.modules()], {
        k: v.clone() for k, v in model.state_dict().items() if '.bn.' not in k}
    plain = deepcopy(model)
    insert_qc(model)
    folded = fold_qc(deepcopy(shake(model)))
    assert relative(model, plain, x) > 1e-3 and relative(model, folded, x) < limit
    assert list(folded.state_dict()) == keys and [type(m) for m in folded.modules()] == kinds
    assert all(torch.equal(folded.state_dict()[k], v) for k, v in codes.items())


# --- training --------------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def trained(tiny, tmp_path_factory):
    "A run folder whose QAT is done and whose QC is not; method qc, so the raw weights are what is corrected."
    root = tmp_path_factory.mktemp('trained')
    config = RunConfig(method='qc', base=tiny/'base.pt', coco_root=tiny/'coco', run_root=root, imgsz=64, epochs=1,
                       batch=2, lr0=1e-3, qc_scope='backbone', qc_lr=1e-2)
    save_config(config, root/'run_config.yaml')
    build_view(tiny/'coco', root/'dataset', seed=0)
    QATTrainer(overrides=overrides(config, root)).train()
    return root, config


def test_only_gamma_and_beta_move(trained):
    root, config = trained
    seen, before = [], load_checkpoint(Layout(root).weights/'last.pt')['model_state_dict']
    results = Layout(root).results.read_bytes()
    trainer = QCTrainer(overrides=qc_overrides(config, root))
    def look(t):
        seen.append(
            ({k: v.clone() for k, v in t.model.state_dict().items()},
             [p for p in t.model.parameters() if p.requires_grad], t.optimizer))
    for event in ('on_train_start', 'on_train_epoch_end'): trainer.add_callback(event, look)
    trainer.train()
    (first, free, optimizer), (last, _, _) = seen
    moved = {k for k in first if not torch.equal(first[k], last[k])}
    corrections = {k for k in first if k.endswith(('.gamma', '.beta'))}
    assert moved and moved <= corrections and all(int(k.split('.')[1]) <= 10 for k in corrections)
    assert len(free) == len(corrections) == sum(len(g['params']) for g in optimizer.param_groups)
    after = load_checkpoint(root/'qc/corrected.pt')['model_state_dict']
    assert list(after) == list(before)
    assert {k for k in before if not torch.equal(before[k], after[k])} <= {
        f'{k.rpartition(".conv.")[0]}.bn.{leaf}' for k in corrections for leaf in ('weight', 'bias')}
    assert Layout(root).results.read_bytes() == results and trainer.ema.updates == 0


def test_same_seed_same_correction(trained):
    root, _ = trained
    file = correct(root)
    one = load_checkpoint(file)['model_state_dict']
    history = (root/'qc/history.csv').read_bytes()
    file.write_bytes(file.read_bytes()[:-100])  # torn: QC is done again
    two = load_checkpoint(correct(root))['model_state_dict']
    assert all(torch.equal(one[k], two[k]) for k in one) and (root/'qc/history.csv').read_bytes() == history


def test_loss_that_becomes_nan_names_the_correction(trained):
    root, config = trained
    trainer = QCTrainer(overrides=qc_overrides(config, root))
    trainer.callbacks['on_train_epoch_end'].insert(
        0, lambda t: setattr(t, 'tloss', {k: v*float('nan') for k, v in t.tloss.items()}))
    with pytest.raises(RuntimeError, match='during QC: lower --qc-lr'): trainer.train()


# --- a whole run -----------------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def whole(tiny, once):
    words = ['run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 2, '--batch', 2,
             '--lr0', 1e-3, '--ema-decay', .5, '--ema-tau', 2, '--method', 'qc+ema', '--qc-lr', 1e-3, '--qc-epochs', 2]
    def make(root):
        done = command(*words, '--run-root', root)
        assert done.returncode == 0, done.stderr
    return once('qc', make), words


def test_run_leaves_the_corrected_model(whole):
    root, _ = whole
    assert sorted(p.name for p in (root/'qc').iterdir()) == ['args.yaml', 'corrected.pt', 'history.csv']
    verify_checkpoint(root/'qc/corrected.pt')
    ema, end = load_checkpoint(
        Layout(root).weights/'last.pt')['ema_state_dict'], load_checkpoint(root/'qc/corrected.pt')['model_state_dict']
    moved = {k for k in ema if not torch.equal(ema[k], end[k])}
    assert list(ema) == list(end) and moved and all(k.endswith(('.bn.weight', '.bn.bias')) for k in moved)
    history = pd.read_csv(root/'qc/history.csv')
    assert history.step.tolist() == [1, 2, 3, 4] and {'box_loss', 'cls_loss', 'dfl_loss', 'gamma_mean', 'gamma_max',
                                                      'beta_mean', 'beta_max'} < set(history)
    # Adam's first step is its learning rate
    assert history.gamma_max[0] == pytest.approx(1e-3, rel=1e-3) and history.gamma_max.is_monotonic_increasing


def test_summary_tells_of_the_correction(whole):
    root, _ = whole
    summary = load_summary(root)
    assert summary.method.variant == 'ema+qc' and summary.method.qc.model_dump() == dict(
        enabled=True, epochs=2, lr=1e-3, bn_stats_fixed=True, scope='all')
    assert list(
        dict.fromkeys(r.rung for r in summary.metrics.rungs)) == ['fp', 'ptq', 'qat_raw', 'qat_ema', 'qc', 'export']
    assert summary.metrics.final_value == find_rung(summary, 'qc',
                                                    source='ultralytics_val').AP and len(summary.metrics.history) == 2
    gain = json.loads((root/'evaluation/qc-gain.json').read_text())
    assert (gain['from'], gain['to'], gain['head'], gain['images'],
            gain['resamples']) == ('qat_ema', 'qc', 'one2one', 4, 300)
    assert json.loads((root/'run_summary.json').read_text())['metrics']['qc_gain'] == gain
    assert gain['low'] <= gain['difference'] <= gain['high']
    assert gain['difference'] == pytest.approx(find_rung(summary, 'qc').AP - find_rung(summary, 'qat_ema').AP,
                                               abs=1e-12)
    assert (root/summary.artifacts['corrected']).is_file() and (
        root/summary.artifacts['qc_history']).is_file() and 'correct' in summary.timings
    for page in ('report.html', 'summary.md'): assert 'The gain of QC is' in (root/page).read_text()
    notebook = nbformat.read(root/'run.ipynb', 4)
    assert any('run.correct()' in c.source for c in notebook.cells)


def test_killed_during_qc_repeats_only_the_qc(whole, tmp_path):
    root, words = tmp_path/'killed', [*whole[1], '--qc-epochs', 40]
    run = start(words, root)
    wait_for(lambda: (root/'qc/args.yaml').is_file())
    trained = (Layout(root).weights/'last.pt').read_bytes(), Layout(root).results.read_bytes()
    kill_launcher(run, root)
    assert not (root/'qc/corrected.pt').exists() and load_summary(root).status == 'incomplete'
    config = (root/'run_config.yaml').read_text()
    # the rest of the test should not take 40 epochs
    (root/'run_config.yaml').write_text(config.replace('qc_epochs: 40', 'qc_epochs: 2'))
    done = command('run', '--resume', '--run-root', root)
    assert done.returncode == 0, done.stderr
    assert trained == ((Layout(root).weights/'last.pt').read_bytes(), Layout(root).results.read_bytes())
    one, two = (load_checkpoint(r/'qc/corrected.pt')['model_state_dict'] for r in (whole[0], root))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert load_summary(root).metrics == load_summary(whole[0]).metrics


# --- the interval ----------------------------------------------------------------------------------------------------------------------------

def scene(seed, images=12, digits=9):
    "Random annotations with crowds, and detections; with one digit many have the same score."
    dice, annotations, found = np.random.default_rng(seed), [], []
    for i in range(1, images+1):
        for _ in range(dice.integers(0, 5)):
            x, y, w, h = (int(v) for v in dice.integers([0, 0, 10, 10], [100, 100, 60, 60]))
            record = dict(id=len(annotations)+1, image_id=i, category_id=int(dice.integers(1, 4)), bbox=[x, y, w, h],
                          area=w*h, iscrowd=int(dice.random() < .15))
            annotations.append(record)
            for _ in range(dice.integers(0, 3)):
                moved = [float(v) for v in np.array(record['bbox']) + dice.integers(-4, 5, 4)]
                found.append(
                    dict(image_id=i, category_id=record['category_id'], bbox=moved,
                         score=round(float(dice.random()), digits)))
        if dice.random() < .5:
            found.append(
                dict(image_id=i, category_id=int(dice.integers(1, 5)), bbox=[5., 5., 30., 30.],
                     score=round(float(dice.random()), digits)))
    records = [dict(id=i, width=200, height=200, file_name=f'{i}.jpg') for i in range(1, images+1)]
    return dict(images=records, annotations=annotations,
                categories=[dict(id=c, name=str(c)) for c in range(1, 6)]), found


def drawn(truth, found, weights):
    "The data set in which each image stands as often as it was drawn, in the order of the images."
    images, annotations, detections = [], [], []
    for record, times in zip(truth['images'], weights):
        for _ in range(times):
            images.append(record | {'id': len(images)+1})
            annotations += [a | dict(id=len(annotations)+n+1, image_id=len(images)) for n,
                            a in enumerate(a for a in truth['annotations'] if a['image_id'] == record['id'])]
            detections += [d | dict(image_id=len(images)) for d in found if d['image_id'] == record['id']]
    return truth | dict(images=images, annotations=annotations), detections


@pytest.mark.parametrize('seed', range(8))
def test_weighted_ap_is_the_ap_of_the_drawn_images(seed, tmp_path):
    tied = scene(seed, digits=1)
    (tmp_path/'a.json').write_text(json.dumps(tied[0]))
    assert _weighted_ap(_matched(tmp_path/'a.json', tied[1]), np.ones((1, 12), int))[0] == pytest.approx(
        coco_scores(tmp_path/'a.json', tied[1]).overall['AP'], abs=1e-12)
    truth, found = scene(seed)
    (tmp_path/'a.json').write_text(json.dumps(truth))
    classes, count = _matched(tmp_path/'a.json', found), len(truth['images'])
    weights = np.vstack(
        [np.ones((1, count), int), np.random.default_rng(seed).multinomial(count, np.full(count, 1/count), size=4)])
    for ap, row in zip(_weighted_ap(classes, weights), weights):
        again, detections = drawn(truth, found, row)
        (tmp_path/'b.json').write_text(json.dumps(again))
        assert ap == pytest.approx(coco_scores(tmp_path/'b.json', detections).overall['AP'], abs=1e-12)


def test_interval_of_known_differences(tmp_path):
    truth, found = scene(3, images=40)
    (tmp_path/'a.json').write_text(json.dumps(truth))
    same = bootstrap_difference(tmp_path/'a.json', found, found)
    assert (same['difference'], same['low'], same['high']) == (0, 0, 0)
    better = bootstrap_difference(tmp_path/'a.json', [], found)
    assert better['low'] > 0 and better['low'] < better['difference'] < better['high']
    back = bootstrap_difference(tmp_path/'a.json', found, [])
    assert (back['difference'], back['low'], back['high']) == pytest.approx(
        (-better['difference'], -better['high'], -better['low']))
    assert bootstrap_difference(tmp_path/'a.json', [], found, seed=1)['low'] != better['low']
    empty = truth | dict(annotations=[])
    (tmp_path/'a.json').write_text(json.dumps(empty))
    with pytest.raises(ValueError, match='has no object to find'): bootstrap_difference(tmp_path/'a.json', found, found)
