"Steps for groups of input channels: a run with them from the command line to its files, and what is refused."
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import command
from decoder import decode
from test_hostile_packed import opened, packed, written  # noqa: F401
from yolov10_qat.checkpoint.format import deployed
from yolov10_qat.checkpoint.store import load_checkpoint
from yolov10_qat.core.config import RunConfig
from yolov10_qat.core.errors import ConfigError
from yolov10_qat.deploy.network import deployment
from yolov10_qat.deploy.onnx_file import onnx_constants, read_onnx
from yolov10_qat.deploy.packed import read_packed
from yolov10_qat.runs.summary import load_summary

EXAMPLES = Path(__file__).parent/'examples'


def words(tiny, root):
    return ['run', '--coco-root', tiny/'coco', '--base', tiny/'base.pt', '--imgsz', 64, '--epochs', 1, '--batch', 2,
            '--method', 'dampen', '--scale', 'learned', '--granularity', 'per_group', '--group-size', 16, '--run-root', root]


@pytest.fixture(scope='module')
def grouped(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp('groups')/'run'
    done = command(*words(tiny, root))
    assert done.returncode == 0, done.stderr
    return root


def last(root): return root/'ultralytics'/'train'/'weights'/'last.pt'


def test_a_run_says_which_layers_have_groups(grouped):
    content, q = load_checkpoint(last(grouped)), load_summary(grouped).quantization
    for e in content['manifest']:
        if not e['bits']: continue
        o, i, h, w = e['shape']
        steps = content['model_state_dict'][f"{e['name']}.weight_quant.tensor_quant.scaling_impl.log_step"]
        divides = i % 16 == 0
        assert (e['granularity'], e.get('group_size')) == (('per_group', 16) if divides else ('per_channel', None))
        assert steps.shape == ((o, i//16, h, w) if divides else (o, 1, 1, 1))
    entries = deployed(content['manifest'])
    weights = sum(math.prod(e['shape']) for e in entries)
    bits = sum(math.prod(e['shape'])*(e['bits'] or 32) for e in entries)
    scales = sum(e['shape'][0] if e['shape'][1] % 16 else math.prod(e['shape'])//16 for e in entries if e['bits'])
    assert q.group_size == 16 and q.average_bits == pytest.approx(bits/weights, abs=1e-3)
    assert q.stored_bits == pytest.approx((bits + 32*scales)/weights, abs=1e-3)
    page = (grouped/'report.html').read_text()
    assert 'per group of 16 input channels' in page and f'{q.stored_bits:.2f} with the scales' in page


def test_its_files_hold_the_weights_of_the_checkpoint(grouped):
    "The packed file by two readers that share no code with the package, the ONNX file by its own numbers."
    made = {Path(e.path).suffix: e for e in load_summary(grouped).exports if e.output == 'one2one'}
    found = deployment(last(grouped), 'raw')
    other = spec_reader().read(grouped/made['.safetensors'].path)
    plain = decode(grouped/made['.safetensors'].path)
    stored = onnx_constants(read_onnx(grouped/made['.onnx'].path)[1])
    for layer in found.layers:
        name, weight = layer.entry['name'], layer.weight.numpy()
        assert (other[name][0] == weight).all() and (np.float32(plain[name]['weight']) == weight.ravel()).all()
        if 'group_size' in layer.entry: assert list(stored[f'{name}.scale'].dims) == list(layer.scale.shape)
    assert read_packed(grouped/made['.safetensors'].path)[0]['version'] == 3
    assert made['.onnx'].sizes.stored_bits == pytest.approx(load_summary(grouped).quantization.stored_bits, abs=.01)


def spec_reader():
    spec = importlib.util.spec_from_file_location('read_packed', EXAMPLES.parents[1]/'examples'/'read_packed.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_packed_file_with_groups():
    "By hand: codes times the scale of their two input channels, at each of two pixels."
    found = decode(EXAMPLES/'packed-v3.safetensors')['model.0.conv']['weight']
    assert found == [.5, -.75, 1, 0, -1, 6, 0, 2, -1.5, .375, 1, -.375, 4, 0, 8, -.75]
    assert (spec_reader().read(EXAMPLES/'packed-v3.safetensors')['model.0.conv'][0].ravel() == found).all()


def test_training_with_the_modules_of_brevitas_gives_the_same(tiny, grouped, tmp_path):
    done = command(*words(tiny, tmp_path/'stock'), '--quantizer', 'stock')
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_checkpoint(last(root))['model_state_dict'] for root in (grouped, tmp_path/'stock'))
    for name, value in ours.items():
        if value.is_floating_point(): torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize('format, piece', [('onnx-qcdq', 'has one per group of 16 input channels; use --format packed or onnx-int4'),
                                           ('qonnx', 'stores one scale per channel')])
def test_formats_without_groups_refuse(grouped, tmp_path, format, piece):
    done = command('export', last(grouped), '--format', format, '--out', tmp_path/'x.onnx')
    assert done.returncode == 1 and piece in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path/'x.onnx').exists()


def test_npu_counts_the_layers_of_a_file(grouped):
    file = next(grouped/e.path for e in load_summary(grouped).exports if e.path.endswith('one2one.onnx'))
    done = command('npu', file)
    assert done.returncode == 0, done.stderr
    entries = deployed(load_checkpoint(last(grouped))['manifest'])
    blocks = sum('group_size' in e for e in entries)
    assert f'{len(entries)} convolutions: weights of {blocks} are taken in blocks, 0 of them by the kernel for whole numbers' in done.stdout


def test_a_size_that_divides_nothing(tiny, tmp_path):
    done = command(*words(tiny, tmp_path/'r'), '--group-size', 1000)
    assert done.returncode == 1 and 'group_size=1000 divides the input channels of no layer; take 32, 16 or 8' in done.stderr
    assert not (tmp_path/'r'/'ultralytics').exists()


@pytest.mark.parametrize('values, piece', [
    (dict(group_size=16), 'group_size=16 needs granularity=per_group, it is per_channel: give both or neither'),
    (dict(granularity='per_group', group_size=12), 'group_size=12: must be a multiple of 8'),
    (dict(granularity='per_group', group_size=0), 'group_size=0: must be greater than or equal to 8')])
def test_contradictions(values, piece):
    with pytest.raises(ConfigError, match=piece): RunConfig(**values)


def test_groups_leave_the_calibrated_recipe_in_force():
    assert RunConfig(granularity='per_group').init_ptq == RunConfig().init_ptq == 'closed'
    assert RunConfig(granularity='per_tensor').init_ptq is None


@pytest.mark.parametrize('command_, more', [('ptq', ['--out', 'l']), ('sensitivity', ['--out', 's'])])
def test_other_commands_refuse_a_size_without_groups(command_, more):
    done = command(command_, 'demo', '--coco-root', 'demo', *more, '--group-size', 16)
    assert done.returncode == 2 and 'group_size=16 needs granularity=per_group, it is per_channel' in done.stderr


@pytest.mark.parametrize('size, piece', [(7, 'does not divide the input channels'), (0, 'greater than or equal to 1'), ('8', 'valid integer')])
def test_a_packed_file_whose_groups_do_not_fit(packed, tmp_path, size, piece):  # noqa: F811
    header, tensors = packed
    layers = [e | dict(group_size=size) if i == 5 else e for i, e in enumerate(header['layers'])]
    assert piece in opened(written(tmp_path/'x.safetensors', header | dict(layers=layers), tensors))


def test_a_packed_file_whose_scales_are_of_another_shape(packed, tmp_path):  # noqa: F811
    header, tensors = packed
    place = next(i for i, e in enumerate(header['layers']) if e['shape'][1] % 8 == 0)
    layers = [e | dict(group_size=8) if i == place else e for i, e in enumerate(header['layers'])]
    assert f"tensor {layers[place]['name']}.scale is F32" in opened(written(tmp_path/'x.safetensors', header | dict(layers=layers), tensors))


def test_a_core_ml_package_holds_them(grouped, tmp_path):
    "What is read back is compared with the checkpoint, bit for bit, before the package is kept."
    done = command('export', last(grouped), '--format', 'coreml', '--out', tmp_path/'x.mlpackage', '--weights', 'raw')
    assert done.returncode == 0, done.stderr
    assert 'not executed on a device' in done.stdout
