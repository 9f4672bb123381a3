"What a training does at each of its steps, against formulas written down here; one tiny network, in this process."
import json
import logging
import math

import numpy as np
import pandas as pd
import pytest
import torch
import ultralytics.utils
from torch.testing import assert_close

from many_runs import store, vary
from tiny import tiny_base, tiny_coco
from yolov10_qat.checkpoint.store import load_checkpoint, open_base
from yolov10_qat.compare.runs import find_runs
from yolov10_qat.compare.summary import twins
from yolov10_qat.core.config import PRIMARY, RunConfig, save_config
from yolov10_qat.core.errors import ConfigError
from yolov10_qat.core.methods import ema_constants
from yolov10_qat.data.view import build_view
from yolov10_qat.evaluate import bootstrap
from yolov10_qat.quant.batchnorm import norms
from yolov10_qat.quant.layers import plan
from yolov10_qat.runs.folder import share_data
from yolov10_qat.studies.sensitivity import most_valuable_first, suggest
from yolov10_qat.train import remedies
from yolov10_qat.train.float_trainer import FloatTrainer, overrides
from yolov10_qat.train.qat_trainer import QATTrainer

IMAGES, BATCH = 8, 2
BATCHES = IMAGES//BATCH  # an epoch
SGD = '{{optimizer: SGD, lr0: 0.01, lrf: {lrf}, momentum: 0.9, weight_decay: 0.0, warmup_epochs: {warmup}, nbs: {nbs}, mosaic: 0.0{more}}}'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    ultralytics.utils.VERBOSE = False
    logging.getLogger('ultralytics').setLevel(logging.ERROR)
    folder = tmp_path_factory.mktemp('steps')
    tiny_coco(folder/'coco', images=IMAGES)
    tiny_base(folder/'base.pt')
    return folder


class Unscored:
    "Neither scores nor measures: that is most of the time of a tiny training, and changes no step."
    def validate(self):
        self.best_fitness = 0.
        return {PRIMARY: 0.}, 0.

    def _note(self, epoch): pass


class Float(Unscored, FloatTrainer): pass
class Quantised(Unscored, QATTrainer): pass


def trainer_in(folder, root, kind=Quantised, **changes):
    "A trainer that is ready to train, for settings that differ from the usual ones."
    usual = dict(base=folder/'base.pt', coco_root=folder/'coco', run_root=root, imgsz=64, epochs=2, batch=BATCH, lr0=1e-3,
                 method='baseline', ema_decay=.5, ema_tau=2, train_max_images=0, val_max_images=0,
                 quantize=not issubclass(kind, Float))
    config = RunConfig(**usual | changes)
    save_config(config, root/'run_config.yaml')
    build_view(folder/'coco', root/'dataset', seed=config.seed)
    return kind(overrides=overrides(config, root))


@pytest.fixture
def start(folder, tmp_path): return lambda *kind, **changes: trainer_in(folder, tmp_path, *kind, **changes)


def recipe(folder, lrf=.1, warmup=0., nbs=BATCH, more=''):
    "A recipe with SGD, and `nbs` images per step."
    file = folder/f'recipe-{lrf}-{warmup}-{nbs}-{len(more)}.yaml'
    file.write_text(SGD.format(lrf=lrf, warmup=warmup, nbs=nbs, more=more))
    return file


def train_and_note(trainer, note):
    "Train; what `note(trainer)` says just before each step of the optimizer."
    noted = []
    def begin(t): t.optimizer.register_step_pre_hook(lambda *_: noted.append(note(t)))
    trainer.add_callback('on_train_start', begin)
    trainer.train()
    return noted


def rates(t): return {g.get('param_group', 'weight'): g['lr'] for g in t.optimizer.param_groups}


def heads(t): return t.model.criterion.o2m, t.model.criterion.o2o


class Watched:
    "One training with everything on; six images per step of eight an epoch, so three batches and then the one that is left."
    epochs, steps = 4, 8

    def __init__(self, folder, root):
        self.looks, self.pulls, self.averages = [], [], []
        self.trainer = t = trainer_in(
            folder, root, method='ema+dampen+freeze', scale='learned', scale_lr=2e-3, epochs=self.epochs, lr0=None,
            recipe=recipe(folder, nbs=6), ema_decay='auto', ema_tau='auto', dampen_lambda=.3, dampen_start=.25, dampen_end=.75,
            dampen_aggregation='kernel_mean', oscillation_momentum=.5, freeze_start=.25, freeze_end=.75,
            freeze_threshold_start=.4, freeze_threshold=.2)
        t.add_callback('on_train_start', self.begin)
        self.noted = train_and_note(t, lambda t: (rates(t), t.gathered, heads(t)))

    def begin(self, t):
        look, self.first = t.tracker.look, self.weight(t.ema.ema)
        t.tracker.look = lambda above=None: (self.looks.append(above), look(above))
        update = t.ema.update
        def averaged(model):
            update(model)
            self.averages.append((self.weight(model), self.weight(t.ema.ema)))
        t.ema.update = averaged

    def weight(self, model): return model.state_dict()['model.0.conv.weight'].clone()


@pytest.fixture(scope='module')
def watched(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        pulls, real = [], remedies.add_dampening
        patch.setattr(remedies, 'add_dampening', lambda t, strength, how: (pulls.append((float(strength), how)),
                                                                           real(t, strength, how)))
        found = Watched(folder, tmp_path_factory.mktemp('watched'))
        found.pulls = pulls
        return found


# --- learning rate ----------------------------------------------------------------------------------------------------------------

def test_the_rate_falls_linearly_epoch_by_epoch(start):
    "lr0*(1 - e/E*(1-lrf)): the last of five epochs trains at 0.28 of lr0."
    noted = train_and_note(start(Float, epochs=5, lr0=1e-3, lrf=.1), rates)
    assert len(noted) == 5*BATCHES
    for step, found in enumerate(noted):
        assert found == pytest.approx(dict.fromkeys(found, 1e-3*(1 - step//BATCHES/5*.9)), rel=1e-12)
    assert noted[-1]['weight'] == pytest.approx(.28e-3)
    assert '0.28 of lr0' in RunConfig.model_fields['lrf'].description


def test_the_rate_of_learned_steps_falls_alike(watched):
    for step, (found, *_) in enumerate(watched.noted):
        share = 1 - step//2/4*.9
        assert found['step'] == pytest.approx(2e-3*share) and found['weight'] == pytest.approx(.01*share)


def test_warm_up(start):
    "From 0 to the rate of the epoch, a bit each batch, over 1.5 epochs; the batch that ends it has the full rate."
    noted, warmup = train_and_note(start(Float, epochs=3, lr0=1e-3, lrf=.1, warmup_epochs=1.5), rates), 1.5*BATCHES
    for batch, found in enumerate(noted):
        full = 1e-3*(1 - batch//BATCHES/3*.9)
        assert found == pytest.approx(dict.fromkeys(found, full*min(1, batch/warmup)), rel=1e-9), batch


def test_warm_up_leaves_the_last_epoch(start):
    noted = train_and_note(start(Float, epochs=2, lr0=1e-3, lrf=.1, warmup_epochs=9), rates)
    for batch, found in enumerate(noted):
        assert found['weight'] == pytest.approx(1e-3*(1 - batch//BATCHES/2*.9)*min(1, batch/BATCHES))


def test_a_cosine_where_a_recipe_says_so(start, folder):
    noted = train_and_note(start(Float, epochs=3, lr0=None, lrf=.1, recipe=recipe(folder, more=', cos_lr: true')), rates)
    for step, found in enumerate(noted):
        e = step//BATCHES
        assert found['weight'] == pytest.approx(.01*(1 + (1-math.cos(e*math.pi/3))/2*(.1-1)))


def test_steps_gather_what_the_recipe_says(watched):
    assert [gathered for _, gathered, _ in watched.noted] == [3, 1]*watched.epochs


# --- moving average ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('steps, decay, tau', [(5, 0., .25), (100, .9, 5.), (20_000, .9995, 1000.), (40_000, .99975, 2000.),
                                               (40_001, 1-10/40_001, 2000.), (100_000, .9999, 2000.), (739_300, .9999, 2000.)])
def test_auto_average(steps, decay, tau):
    "DESIGN, section 7: a tenth of a short run, the paper's constants for a long one."
    assert ema_constants(RunConfig(method='ema'), steps) == pytest.approx((decay, tau))


def test_the_average_follows_its_formula(watched):
    average, t = watched.first, watched.trainer
    assert len(watched.averages) == watched.steps and (t.ema_decay, t.ema_tau) == (0., watched.steps/20)
    for n, (raw, found) in enumerate(watched.averages, 1):
        d = t.ema_decay*(1 - math.exp(-n/t.ema_tau))
        average = d*average + (1-d)*raw
        assert_close(found, average)


# --- remedies ----------------------------------------------------------------------------------------------------------------------

def test_dampening_counts_images(watched):
    "lambda rises by a cosine over the steps; the loss is a sum over images, so the term is multiplied by those of the step."
    expected = []
    for step in range(watched.steps):
        way = min(1, max(0, (step/watched.steps - .25)/.5))
        if way: expected.append(.3*(1-math.cos(math.pi*way))/2*(6 if step % 2 == 0 else 2))
    assert [s for s, _ in watched.pulls] == pytest.approx(expected) and {how for _, how in watched.pulls} == {'kernel_mean'}


@pytest.mark.parametrize('aggregation, share', [('sum', 1.), ('kernel_mean', 1/9)])
def test_the_gradient_of_dampening(start, aggregation, share, monkeypatch):
    "2*lambda*images*(clip(w) - level), on top of the gradient of the loss; of a kernel of nine weights the mean."
    trainer, found = start(method='dampen', epochs=1, dampen_lambda=.5, dampen_start=0., dampen_end=.5,
                           dampen_aggregation=aggregation), []
    real = remedies.add_dampening
    def watched(tracker, strength, how):
        layer = next(m for n, m in trainer.model.named_modules() if n == 'model.1.conv')
        before = layer.weight.grad.clone()
        real(tracker, strength, how)
        w, step = layer.weight.detach(), layer.quant_weight().scale.detach()
        expected = 2*strength*(w.clamp(-7*step, 7*step) - (w/step).round().clamp(-7, 7)*step)*share
        found.append((layer.weight.grad - before, expected))
    monkeypatch.setattr(remedies, 'add_dampening', watched)
    trainer.train()
    assert len(found) == BATCHES - 1 and found[-1][1].abs().max() > 0
    for ours, expected in found: assert_close(ours, expected, rtol=1e-3, atol=1e-5)


def test_the_threshold_of_freezing_falls(watched):
    "By a cosine; a weight is looked at after its step."
    for step, found in enumerate(watched.looks, 1):
        progress = step/watched.steps
        if progress < .25: assert found is None
        else: assert found == pytest.approx(.2 + .2*(1+math.cos(math.pi*min(1, (progress-.25)/.5)))/2)
    assert len(watched.looks) == watched.steps and watched.looks[-1] == pytest.approx(.2)
    assert watched.looks[1] == pytest.approx(.4)


def statistics(model): return {n: (m.running_mean.clone(), m.running_var.clone()) for n, m in norms(model).items()}


def batchnorm_history(trainer):
    "Statistics at each batch, by epoch: before it and after it."
    kept = {}
    def before(t): kept.setdefault(t.epoch, []).append((statistics(t.model), {m.training for m in norms(t.model).values()}))
    trainer.add_callback('on_train_batch_start', before)
    trainer.add_callback('on_train_batch_end', before)
    trainer.train()
    return kept


def test_frozen_norms_stand_still_within_an_epoch(start):
    kept = batchnorm_history(start(bn='freeze', bn_batches=2, lr0=1e-2))
    assert len(kept) == 2 and all(len(looks) == 2*BATCHES for looks in kept.values())
    for looks in kept.values():
        for found, modes in looks:
            assert modes == {False}
            assert_close(found, looks[0][0], rtol=0, atol=0)
    moved = [n for n in kept[0][0][0] if not kept[0][0][0][n][0].equal(kept[1][0][0][n][0])]
    assert moved  # between the epochs they are carried over


def test_norms_follow_the_batches_otherwise(start):
    kept = batchnorm_history(start(bn='train', epochs=1))
    looks = kept[0]
    for before, after in zip(looks[::2], looks[1::2]):
        assert before[1] == {True} and not before[0]['model.0.bn'][0].equal(after[0]['model.0.bn'][0])


@pytest.mark.parametrize('method, scored', [('ema', 2), ('baseline', 1)])
def test_norms_are_measured_before_each_score(start, method, scored):
    "The mean over the batches of what the first batch norm sees, in each copy that is scored."
    trainer, found = start(QATTrainer, method=method, bn='reestimate', bn_batches=2, lr0=1e-2), []
    def begin(t):
        class Watching(type(t.validator)):
            def __call__(self, *words, **more):
                found.append((t.epoch, self.subject))
                return super().__call__(*words, **more)
        t.validator.__class__ = Watching
    trainer.add_callback('on_train_start', begin)
    trainer.train()
    assert [e for e, _ in found] == [e for e in (0, 1) for _ in range(scored)]
    for _, model in found:
        with torch.no_grad():
            seen = [model.model[0].conv(images) for images in trainer.images]
            mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
            variance = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
        assert len(seen) == 2
        assert_close(model.model[0].bn.running_mean, mean, rtol=1e-4, atol=1e-6)
        assert_close(model.model[0].bn.running_var, variance, rtol=1e-4, atol=1e-6)


# --- the two heads ------------------------------------------------------------------------------------------------------------------

def test_heads_weigh_the_same_at_every_step(watched, start):
    assert [weights for *_, weights in watched.noted] == [(1., 1.)]*watched.steps
    assert train_and_note(start(Float), heads) == [(1., 1.)]*2*BATCHES


def test_one2many_falls_where_ultralytics_is_asked(start):
    noted = train_and_note(start(Float, head_loss='ultralytics', epochs=3), heads)
    expected = [(o2m, 1-o2m) for o2m in (.8, .45, .1) for _ in range(BATCHES)]  # from 0.8 to 0.1, linearly over the epochs
    assert np.allclose(noted, expected)


def test_the_loss_is_the_sum_of_both(start):
    trainer, seen = start(Float, epochs=1), []
    def begin(t):
        criterion = t.model.criterion
        for name in ('one2many', 'one2one'):
            branch = getattr(criterion, name)
            real = branch.loss
            branch.loss = lambda *w, real=real, name=name: (seen.append((name, out := real(*w))), out)[1]
    trainer.add_callback('on_train_start', begin)
    trainer.add_callback('on_train_batch_end', lambda t: seen.append(('all', t.loss.detach())))
    trainer.train()
    rows = [seen[i:i+3] for i in range(0, len(seen), 3)][:BATCHES]
    for (a, many), (b, one), (c, whole) in rows:
        assert (a, b, c) == ('one2many', 'one2one', 'all')
        assert_close(whole, many[0].sum().detach() + one[0].sum().detach())


# --- the interval, the keep-list, twins ----------------------------------------------------------------------------------------------

def test_the_interval_holds_95_of_100_draws(monkeypatch, tmp_path):
    "Differences 0 to 300 in any order: 2.5 % lie below 7.5, 2.5 % above 292.5; the images as they are count for neither."
    draws = np.random.default_rng(1).permutation(301).astype(float)
    answers = iter([np.r_[3000., np.full(301, 5.)], np.r_[1000., draws + 5]])  # before, after
    monkeypatch.setattr(bootstrap, '_matched', lambda *_: [type('M', (), dict(objects_n=np.ones(4)))])
    monkeypatch.setattr(bootstrap, '_weighted_ap', lambda *_: next(answers))
    found = bootstrap.bootstrap_difference('', [], [], resamples=301)
    assert (found['difference'], found['low'], found['high'], found['level']) == pytest.approx((-2000., 7.5, 292.5, .95))
    assert (found['images'], found['resamples']) == (4, 301)


LAYERS = pd.DataFrame([('a', 'layer', 900, .9), ('b', 'layer', 100, .5), ('c', 'layer', 300, .6), ('d', 'layer', 50, -.1),
                       ('model.3', 'block', 10, 9.), ('e', 'layer', 0, 1.)],
                      columns=['part', 'group', 'bytes', 'loss_rise_alone'])

def test_a_keep_list_is_ranked_per_byte():
    "b buys .005 a byte, c .002, a .001; the largest rise does not come first, and what does not fit is passed over."
    assert most_valuable_first(LAYERS) == ['b', 'c', 'a']
    assert suggest(LAYERS, 400) == ['b', 'c'] and suggest(LAYERS, 399) == ['b']
    assert suggest(LAYERS, 1300) == ['b', 'c', 'a'] and suggest(LAYERS, 1299) == ['b', 'c']
    with pytest.raises(ConfigError, match='cheapest one that helps costs 100'): suggest(LAYERS, 99)


def test_a_keep_list_beside_first_and_last_bits(start, folder):
    "The list says 8, the ends say 6, everything else has 4; a layer that both name has the list's."
    model = open_base(folder/'base.pt', 'yolo10n', ['red', 'green'])
    ends = {e['name'] for e in plan(model, first_last_bits=6) if e['bits'] == 6}
    assert 'model.0.conv' in ends and len(ends) > 2
    trainer = start(epochs=1, first_last_bits=6)
    (trainer.files.keep_layers).write_text(json.dumps(dict(format_version=1, layers=['model.0.conv', 'model.5.cv1.conv'])))
    trainer.train()
    found = {e['name']: e['bits'] for e in load_checkpoint(trainer.last)['manifest'] if e['bits']}
    assert {n for n, b in found.items() if b == 8} == {'model.0.conv', 'model.5.cv1.conv'}
    assert {n for n, b in found.items() if b == 6} == ends - {'model.0.conv'}
    assert set(found.values()) == {4, 6, 8}


BORN = {'model.checkpoint': 'random'}

def born(run_id, mode='w4a16', **changes):
    s = vary(method='baseline', run_id=run_id, changes=BORN | {'quantization.mode': mode} | changes)
    return s


@pytest.mark.parametrize('change', [{'dataset.fingerprint': 'f'*64}, {'model.checkpoint_sha256': '0'*64}, {'model.imgsz': 96},
                                    {'training.epochs': 7}, {'training.seed': 3}, {'model.checkpoint': 'base.pt'}])
def test_runs_that_were_not_born_alike_are_no_twins(tmp_path, change):
    alike, _ = find_runs([store(tmp_path/'a', born('float', 'float'), born('quantised'))])
    assert [(p.floating, p.quantised) for p in twins(alike)] == [('float', 'quantised')]
    others, _ = find_runs([store(tmp_path/'b', born('float', 'float'), born('quantised', **change))])
    assert len(others) == 2 and twins(others) == []


def test_a_twin_on_other_data_is_refused(folder, tmp_path):
    "The folder that twins share holds one view; another data set, or other images of it, do not become part of it."
    tiny_coco(tmp_path/'other', images=IMAGES, seed=1)
    first, second = (share_data(tmp_path/'twins', name, False) for name in ('fp16', 'qat-w4a16'))
    build_view(folder/'coco', first/'dataset')
    for root, more in ((tmp_path/'other', {}), (folder/'coco', dict(train_max_images=4)), (folder/'coco', dict(val_max_images=4))):
        with pytest.raises(ValueError, match='contains a view of other data'): build_view(root, second/'dataset', **more)
    assert build_view(folder/'coco', second/'dataset').fingerprint == build_view(folder/'coco', first/'dataset').fingerprint
