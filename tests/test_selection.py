"The default run: calibrated, trained, and what it delivers is what the images that were set aside say."
import json

import pytest
import torch

from conftest import command
from yolov10_qat.checkpoint.store import build_model, load_checkpoint
from yolov10_qat.core.config import load_config
from yolov10_qat.core.layout import Layout
from yolov10_qat.data.scenes import write_scenes
from yolov10_qat.data.view import load_view
from yolov10_qat.deploy.detectors import evaluate_file
from yolov10_qat.deploy.packed import read_packed, unpack
from yolov10_qat.evaluate.coco_ap import coco_scores
from yolov10_qat.quant.layers import codes_and_steps, quantized_layers
from yolov10_qat.runs.summary import find_rung, load_summary

TRAIN, ASIDE = 100, 10


@pytest.fixture(scope='module')
def done(once):
    def make(folder):
        write_scenes(folder/'coco', TRAIN, 16, side=160)
        told = command('run', '--coco-root', folder/'coco', '--base', 'demo', '--imgsz', 160, '--train-max-images', 0,
                       '--val-max-images', 0, '--lr0', .05, '--scale-lr', .1, '--run-root', folder/'run')
        assert told.returncode == 0, told.stderr
    folder = once('selection', make)
    return Layout(folder/'run'), load_summary(folder/'run'), folder/'coco'


def codes(content): return {n: codes_and_steps(layer)[0] for n, layer in quantized_layers(build_model(content)).items()}


def packed_codes(file):
    header, tensors = read_packed(file)
    return {e['name']: torch.from_numpy(unpack(tensors[f"{e['name']}.codes"].numpy(), e['bits'], tuple(e['shape'])))
            for e in header['layers'] if e['bits']}


def test_the_default_is_the_calibrated_recipe(done):
    files, summary, _ = done
    config = load_config(files.config)
    assert (config.recipe, config.init_ptq, config.bn, config.lr0) == ('calibrated', 'closed', 'freeze', .05)
    assert files.recipe.is_file() and summary.quantization.init_ptq == 'closed'


def test_images_set_aside_train_nothing(done):
    files, summary, _ = done
    view = load_view(files.dataset)
    train, aside = ({p.name for p in view.images(key)} for key in ('train', 'selection'))
    assert (len(train), len(aside), train & aside) == (TRAIN-ASIDE, ASIDE, set())
    assert (summary.dataset.train_images, summary.dataset.selection_images) == (TRAIN-ASIDE, ASIDE)


def test_the_best_on_them_is_delivered(done):
    "A learning rate that ruins the weights: the start must win, by detections scored once more."
    files, summary, coco = done
    chosen, view = summary.metrics.selection, load_view(files.dataset).selection()
    by_hand = {s.rung: coco_scores(view.val_annotations, json.loads(
        (files.selection/f'{s.rung}-one2one-detections.json').read_text())).overall['AP'] for s in chosen.scores}
    assert by_hand == {s.rung: s.AP for s in chosen.scores} and [*by_hand] == ['ptq', 'qat_raw', 'qat_ema']
    assert by_hand['ptq'] > .5 and by_hand['qat_raw'] < .5*by_hand['ptq'], by_hand
    assert chosen.delivered == 'ptq' == max(by_hand, key=lambda rung: by_hand[rung]) and chosen.images == ASIDE
    start, delivered = codes(load_checkpoint(files.calibrated)), codes(load_checkpoint(files.delivered))
    assert all(torch.equal(start[n], delivered[n]) for n in start)
    assert any(not torch.equal(c, start[n]) for n, c in codes(load_checkpoint(files.last)).items())
    scores, _ = evaluate_file(files.delivered, coco, 160)
    assert scores['one2one'].pycocotools['AP'] == find_rung(summary, 'ptq').AP
    packed = next(e for e in summary.exports if e.format == 'packed')
    exported = packed_codes(files.root/packed.path)
    assert exported and all(torch.equal(c, delivered[n]) for n, c in exported.items())
    assert summary.worth.delivered == 'ptq' and summary.worth.interval.images == 16
    assert packed.parity.ap_torch == pytest.approx(find_rung(summary, 'ptq').AP, abs=.02)  # on squares


def test_the_pages_say_it(done):
    files, summary, _ = done
    assert 'PTQ, delivered, keeps' in files.summary_md.read_text(encoding='utf-8').splitlines()[0]
    for page in (files.report, files.summary_md):
        text = page.read_text(encoding='utf-8')
        assert 'Delivered: PTQ, the best of 3 on 10 training images that were set aside' in text and 'PTQ (delivered)' in text
    assert summary.artifacts['delivered'] == 'delivered.pt'
