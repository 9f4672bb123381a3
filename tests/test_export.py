"Packed files: what a shell gets, the AP of a file against that of its checkpoint, and the format as it was written first."
import sys

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, command

from yolov10_qat.checkpoint import build_model, load_checkpoint, open_base, save_checkpoint
from yolov10_qat.config import DEMO
from yolov10_qat.export import load_packed, read_packed, unpack
from yolov10_qat.quantizer import deployable, plan, quantize
from yolov10_qat.scenes import write_scenes
from yolov10_qat.weights import find_base

sys.path.insert(0, str(REPOSITORY/'examples'))
from read_packed import read  # noqa: E402

FIRST = REPOSITORY/'tests'/'examples'/'packed-v1.safetensors'


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    "The demo's base weights, quantised per channel, as a checkpoint, and their packed file."
    folder = tmp_path_factory.mktemp('packed')
    base = find_base('yolo10n', DEMO).path
    model = open_base(base, 'yolo10n', names(base))
    manifest = plan(model)
    model = quantize(model, manifest)
    save_checkpoint(folder/'demo.pt', dict(epoch=1, optimizer=None, train_args={}, ema_updates=0, resume={}, ema_state_dict=None, model_state_dict=model.state_dict(), model_yaml=model.yaml, names=model.names, manifest=manifest))
    done = command('export', folder/'demo.pt', '--out', folder/'demo.safetensors')
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def names(base):
    from yolov10_qat.checkpoint import load_base
    return load_base(base)[1]['names']


def test_size_is_what_it_says(demo):
    folder, said = demo
    size = (folder/'demo.safetensors').stat().st_size
    assert f'{size:,} bytes' in said and '4.00 bits a weight' in said and size < 1_450_000


def test_same_detections(demo, tmp_path):
    "On painted scenes, the 300 x 6 output of the NMS-free head: boxes to a hundredth of a pixel, scores to 1e-4."
    from PIL import Image
    folder, _ = demo
    scenes = write_scenes(tmp_path/'coco', 1, 8)
    images = torch.stack([torch.from_numpy(np.array(Image.open(p).resize((160, 160)))).permute(2, 0, 1)/255 for p in sorted((scenes/'val2017').glob('*.jpg'))])
    torchs, packed = deployable(build_model(load_checkpoint(folder/'demo.pt'))), load_packed(folder/'demo.safetensors')
    torchs.model[-1].end2end = True
    with torch.no_grad(): before, after = torchs(images)[0], packed(images)[0]
    assert before.shape == after.shape == (8, 300, 6) and before[..., 4].max() > .5
    sure = before[..., 4] > .05
    assert sure.sum() > 20
    torch.testing.assert_close(after[sure], before[sure], rtol=0, atol=.01)
    torch.testing.assert_close(after[..., 4][sure], before[..., 4][sure], rtol=0, atol=1e-4)


def test_first_version():
    header, tensors = read_packed(FIRST)
    assert (header['version'], header['epoch'], header['layers'][0]['bits']) == (1, 3, 3)
    codes = np.array([[[[1, -4], [3, 0]]], [[[-1, 2], [-2, 3]]]])
    assert (unpack(tensors['model.0.conv.codes'].numpy(), 3, (2, 1, 2, 2)) == codes).all()
    found = read(FIRST)
    assert (found['model.0.conv'][0] == codes*np.array([.5, -.25]).reshape(2, 1, 1, 1)).all() and found['model.0.conv'][1].tolist() == [1, 2]
    assert found['model.1.dfl.conv'][0].ravel().tolist() == [0, 1, 2, 3] and found['model.1.dfl.conv'][1] is None


def test_refused(demo, tmp_path):
    folder, _ = demo
    for words, piece in ((['--out', folder/'demo.safetensors'], 'exists; remove it, or choose another --out'), (['--out', tmp_path/'x', '--format', 'onxx'], "--format 'onxx' is unknown; use packed")):
        done = command('export', folder/'demo.pt', *words)
        assert done.returncode == 1 and done.stderr.count('\n') == 1 and piece in done.stderr, done.stderr
    done = command('export', tmp_path/'absent.pt', '--out', tmp_path/'x')
    assert done.returncode == 1 and 'no checkpoint' in done.stderr and not (tmp_path/'x').exists()
