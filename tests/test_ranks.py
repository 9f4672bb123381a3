"Two processes train as one does: the same weights, one of them writes, and both hold the same oscillation state and learned steps."
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from ultralytics.utils import DEFAULT_CFG_DICT
from ultralytics.utils.patches import torch_load

from yolov10_qat.checkpoint.store import load_checkpoint
from yolov10_qat.core.config import RunConfig, load_config, save_config
from yolov10_qat.data.scenes import write_scenes
from yolov10_qat.data.view import build_view
from yolov10_qat.train.float_trainer import overrides
from yolov10_qat.train.qat_trainer import QATTrainer

RECIPE = ('{optimizer: SGD, lr0: 0.01, lrf: 0.5, momentum: 0.9, weight_decay: 0.0005, warmup_epochs: 0.0, nbs: 8, '
          'mosaic: 0.0, hsv_h: 0.0, hsv_s: 0.0, hsv_v: 0.0, translate: 0.0, scale: 0.0, fliplr: 0.0}')


def prepare(folder, name, batch):
    root = folder/name
    root.mkdir()
    config = RunConfig(base='demo', coco_root=folder/'coco', run_root=root, imgsz=160, epochs=4, batch=batch,
                       recipe=folder/'recipe.yaml', train_max_images=0, val_max_images=0, scale='learned',
                       method='ema+dampen+freeze', dampen_lambda=.01, dampen_start=0., oscillation_momentum=.5,
                       freeze_threshold_start=.6, freeze_threshold=.4)
    save_config(config, root/'run_config.yaml')
    build_view(folder/'coco', root/'dataset', seed=0)
    return root


def train(folder, name, ranks, batch):
    root = prepare(folder, name, batch)
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', str(ranks)] if ranks > 1 else []
    environment = os.environ | {'OMP_NUM_THREADS': '1', 'YOLO_VERBOSE': 'false', 'GLOO_SOCKET_IFNAME': 'lo'}
    done = subprocess.run([sys.executable, *launcher, str(Path(__file__).with_name('two_ranks.py')), str(root)],
                          capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, [torch.load(root/f'rank-{r}.pt', weights_only=True) for r in range(ranks)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    write_scenes(folder/'coco', 8, 8)  # one step an epoch: the first rank sees the first four, the second the others
    (folder/'recipe.yaml').write_text(RECIPE)
    return folder


@pytest.fixture(scope='module')
def two(folder): return train(folder, 'two', 2, 8)


# each rank has normalised its own images
def trained(state): return {k: v for k, v in state.items() if 'running_' not in k and 'num_batches' not in k}


def test_both_ranks_hold_the_same(two):
    _, (a, b) = two
    torch.testing.assert_close(trained(a['model']), trained(b['model']), rtol=0, atol=0)
    torch.testing.assert_close(trained(a['ema']), trained(b['ema']), rtol=0, atol=0)
    torch.testing.assert_close(a['oscillation'], b['oscillation'], rtol=0, atol=0)
    assert a['losses'] != b['losses'], 'both ranks saw the same images'


def test_one_rank_writes(two):
    root, (a, b) = two
    assert (len(a['rows']), len(b['rows'])) == (4, 0)
    table, content = pd.read_csv(root/'ultralytics/train/results.csv'), load_checkpoint(
        root/'ultralytics/train/weights/last.pt')
    assert table.epoch.tolist() == [1, 2, 3, 4] and content['epoch'] == 4
    torch.testing.assert_close(content['model_state_dict'], dict(a['model']), rtol=0, atol=0)
    torch.testing.assert_close(content['resume']['oscillation']['frequency_w'], b['oscillation']['frequency_w'], rtol=0,
                               atol=0)
    assert pd.read_csv(root/'oscillation.csv').epoch.unique().tolist() == [0, 1, 2, 3, 4]


def test_two_ranks_are_one_that_gathers(two, folder):
    "A step of two ranks is a step of two gathered batches: the sum of the same gradients. Only the order of additions differs."
    _, (a, b) = two
    _, (one,) = train(folder, 'gathered', 1, 4)
    pairs = list(
        zip(one['losses'][0::2], a['losses'], strict=True)) + list(zip(one['losses'][1::2], b['losses'], strict=True))
    for mine, theirs in pairs: assert mine == pytest.approx(theirs, rel=1e-3)
    torch.testing.assert_close(trained(one['model']), trained(a['model']), rtol=1e-3, atol=1e-4)
    same = (one['oscillation']['integer_w'] == a['oscillation']['integer_w']).float().mean()
    assert same > .999  # a weight within a rounding error of a threshold may fall to the other side


def test_two_ranks_against_the_doubled_batch(two, folder):
    "Ultralytics divides a loss by the assigned scores of the batch at hand, a rank's or the whole one's, so the two are near and not equal: 5 %."
    _, (a, b) = two
    _, (one,) = train(folder, 'doubled', 1, 8)
    for mine, x, y in zip(one['losses'], a['losses'], b['losses'], strict=True):
        assert sum(mine.values()) == pytest.approx((sum(x.values()) + sum(y.values()))/2, rel=.05)


def test_ultralytics_launcher_can_start_it(folder):
    "What Ultralytics' launcher writes down for its processes gives the same trainer back, each of its callbacks once; and the folder of a run that goes on is not emptied."
    root, _ = train(folder, 'launched', 1, 8)
    config = load_config(root/'run_config.yaml')
    trainer, ran = QATTrainer(overrides=overrides(config, root)), []
    trainer.ddp, trainer.world_size = True, 2
    def instead(command, check):
        state = torch_load(Path(command[-1]).with_suffix('.pt'), map_location='cpu')
        ran.append(
            state['trainer'](cfg=DEFAULT_CFG_DICT | {'save_dir': ''}, overrides=state['args'],
                             _callbacks=state['callbacks']))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, 'run', instead)
        trainer.train()
    again, = ran
    assert type(again) is QATTrainer and again.root == root
    def ours(t):
        return {event: [f.__name__ for f in calls if f.__module__.startswith('yolov10_qat')] for event,
                calls in t.callbacks.items()}
    assert ours(again) == ours(trainer) and ours(again)['on_train_start'] == ['_train_start']
    assert load_checkpoint(root/'ultralytics/train/weights/last.pt')['epoch'] == 4


def test_a_process_that_fails_is_told_of_in_one_line(folder):
    root = prepare(folder, 'failing', 8)
    config = load_config(root/'run_config.yaml')
    trainer = QATTrainer(overrides=overrides(config, root))
    trainer.ddp, trainer.world_size = True, 2
    def fail(command, check):
        (root/'failure.txt').write_text('TrainingDiverged: box_loss became nan in epoch 3')
        raise subprocess.CalledProcessError(1, command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, 'run', fail)
        with pytest.raises(RuntimeError, match='box_loss became nan in epoch 3'): trainer.train()
