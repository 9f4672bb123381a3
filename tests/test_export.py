"Exported files: what a shell gets, the AP of a file against that of its checkpoint, what other tools see in it, and the formats as they were written first."
import json
import random
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from conftest import REPOSITORY, command
from decoder import check_digest, decode
from yolov10_qat.checkpoint.base_weights import find_base
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.checkpoint.store import load_base, load_checkpoint, open_base, save_checkpoint
from yolov10_qat.core.config import DEMO
from yolov10_qat.data.scenes import write_scenes
from yolov10_qat.deploy.detectors import evaluate_file, open_detector
from yolov10_qat.deploy.export import export, export_checkpoint
from yolov10_qat.deploy.network import deployment, manifest_sha256
from yolov10_qat.deploy.onnx_file import OnnxDetector, read_onnx
from yolov10_qat.deploy.packed import read_packed, unpack
from yolov10_qat.deploy.parity import Reference
from yolov10_qat.deploy.targets import FORMATS, SUFFIXES
from yolov10_qat.evaluate.heads import validation_view
from yolov10_qat.quant.layers import codes_and_steps, plan, quantize

EXAMPLES = REPOSITORY/'tests'/'examples'


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('export')


@pytest.fixture(scope='module')
def scenes(folder): return write_scenes(folder/'coco', 1, 8, side=160)


@pytest.fixture(scope='module')
def checkpoint(folder):
    "The demo's base weights, rounded per channel, the stem at 8 bit."
    base = find_base('yolo10n', DEMO).path
    model = open_base(base, 'yolo10n', load_base(base)[1]['names'])
    manifest = plan(model, raised={'model.0.conv': 8})
    model = quantize(model, manifest)
    return save_checkpoint(folder/'demo.pt',
                           dict(epoch=1, optimizer=None, train_args=dict(imgsz=160), ema_updates=0, resume={},
                                ema_state_dict=None, model_state_dict=model.state_dict(), model_yaml=model.yaml,
                                names=model.names, manifest=manifest))


@pytest.fixture(scope='module')
def files(folder, scenes, checkpoint):
    "Format -> what was written and measured."
    found = deployment(checkpoint)
    reference = Reference(found.model, validation_view(scenes, folder/'view', found.facts['names'], 'demo'), 160)
    return {format: export(found, folder/f'{format}{SUFFIXES[format]}', reference, format)[0]
            for format in FORMATS if format != 'litert'}  # its converter has an environment of its own: test_litert


def test_same_model(files):
    for made in files.values():
        half = made.format == 'coreml'  # activations in FP16
        assert made.parity.ap > .1 and abs(made.parity.ap - made.parity.ap_torch) < (.05 if half else 1e-3), made
        assert max(made.parity.raw_boxes, made.parity.raw_scores) < (3e-2 if half else 1e-4)


def test_sizes(files, folder):
    "Four bits are four bits: integers take half a byte each, and the whole file less than a sixth of FP32's."
    layers = [x.entry for x in deployment(folder/'demo.pt').layers]
    expected = sum(-(-int(np.prod(e['shape']))*e['bits']//8) for e in layers if e['bits'])
    for format in ('packed', 'onnx-int4'):
        s = files[format].sizes
        assert s.codes == expected and s.fp32_file > 6*s.file and s.file == (
            folder/f'{format}{SUFFIXES[format]}').stat().st_size
    assert files['packed'].sizes.file < 1_450_000 and files['onnx-int4'].sizes.file < 1_800_000
    # a byte each, and the table says so
    assert files['onnx-qcdq'].sizes.codes == sum(int(np.prod(e['shape'])) for e in layers if e['bits'])
    assert files['qonnx'].sizes.codes == 0 and files['onnx-fp32'].sizes.file == files['onnx-int4'].sizes.fp32_file


def test_one_network_one_manifest(files):
    packed, graph = read_packed(files['packed'].path)[0], read_onnx(files['onnx-int4'].path)[0]
    assert packed['manifest_sha256'] == graph[
        'manifest_sha256'] == manifest_sha256(packed['layers']) and packed['source_sha256'] == graph['source_sha256']


# What others find in the files

def test_decoder_written_from_the_documentation(files, checkpoint):
    "decoder.py was written from the tables in nbs/11_packed.ipynb by someone who has not seen this package."
    model, path = deployment(checkpoint).model, files['packed'].path
    assert check_digest(path)
    tensors, restored = read_packed(path)[1], open_detector(path).model
    for name, layer in decode(path).items():
        conv = restored.get_submodule(name)
        assert np.array(layer['weight'], np.float32).tobytes() == conv.weight.numpy().tobytes(), name
        assert layer['bias'] is None or np.array(layer['bias'],
                                                 np.float32).tobytes() == tensors[f'{name}.bias'].numpy().tobytes()
        if layer['bits']:
            assert layer['codes'] == codes_and_steps(model.get_submodule(name))[0].flatten().int().tolist()


def test_inspection(files, checkpoint):
    "As Netron shows it: INT4 weights behind DequantizeLinear, no batch norm, and no float weight of a layer that the manifest calls quantised."
    facts, model = read_onnx(files['onnx-int4'].path)
    tensors, quantised = {t.name: t for t in model.graph.initializer}, [e for e in facts['layers'] if e['bits']]
    ops = Counter(n.op_type for n in model.graph.node)
    assert ops['DequantizeLinear'] == len(quantised) == 83 and ops['Conv'] == 84 and not {
        'BatchNormalization', 'NonMaxSuppression', 'Quant'} & ops.keys()
    assert (
        Counter(t.data_type for t in tensors.values() if t.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.INT8))
        == {onnx.TensorProto.INT4: 82, onnx.TensorProto.INT8: 1})
    assert model.opset_import[0].version == 21
    for e in quantised:
        made_by = next(n for n in model.graph.node if n.output[0] == f"{e['name']}.weight")
        assert made_by.op_type == 'DequantizeLinear' and f"{e['name']}.weight" not in tensors
        codes, scale = (tensors[name] for name in made_by.input)
        assert list(codes.dims) == e['shape'] and list(scale.dims) == e['shape'][:1]
        assert (onnx.numpy_helper.to_array(codes).astype(int)
                == codes_and_steps(deployment_model(checkpoint).get_submodule(e['name']))[0].numpy()).all()
    floats = sum(int(np.prod(t.dims)) for t in tensors.values() if t.data_type == onnx.TensorProto.FLOAT and len(t.dims)
                 == 4)
    assert floats == 16  # the ramp of the DFL layer


def deployment_model(checkpoint, found={}):
    if checkpoint not in found: found[checkpoint] = deployment(checkpoint).model
    return found[checkpoint]


@pytest.mark.parametrize('format', ['onnx-int4', 'onnx-qcdq', 'onnx-fp32'])
def test_ultralytics_predicts(files, scenes, checkpoint, format):
    "`YOLO(file)` knows classes and size, needs no NMS, and finds what the checkpoint finds."
    from ultralytics import YOLO

    from yolov10_qat.checkpoint.store import load
    pictures = [Image.open(p) for p in sorted((scenes/'val2017').glob('*.jpg'))[:4]]
    ours, theirs = YOLO(files[format].path, task='detect'), load(checkpoint)
    for picture in pictures:
        a, b = (m.predict(picture, imgsz=160, conf=.25, verbose=False, rect=False, device='cpu')[0]
                for m in (ours, theirs))
        assert a.names == b.names and len(a.boxes) == len(b.boxes) > 0
        torch.testing.assert_close(a.boxes.data, b.boxes.data, rtol=1e-3, atol=1e-2)


# The shell

def test_shell(folder, scenes, checkpoint):
    "Either head, and an input of any size; what is printed is what is in the file."
    raw = command('export', checkpoint, '--out', folder/'raw.onnx', '--format', 'onnx-int4', '--head', 'raw',
                  '--coco-root', scenes)
    assert raw.returncode == 0 and f"{(folder/'raw.onnx').stat().st_size:,} bytes" in raw.stdout and 'same model: raw outputs differ by' in raw.stdout and 'the gain is size' in raw.stdout, raw.stderr
    many = command('export', checkpoint, '--out', folder/'many.onnx', '--format', 'onnx-int4', '--head', 'one2many',
                   '--dynamic', '--imgsz', 192, '--coco-root', scenes)
    assert many.returncode == 0 and '8 images, one2many, pycocotools' in many.stdout, many.stderr
    assert OnnxDetector(folder/'many.onnx')(torch.zeros(2, 3, 64, 96))['one2many'].shape[::2] == (2, 8*12 + 4*6 + 2*3)


def test_eval(files, scenes):
    "A file with inputs of one size gives the AP that was measured when it was written."
    done = command('eval', files['onnx-int4'].path, '--coco-root', scenes)
    assert done.returncode == 0, done.stderr
    assert (f"one2one   8 images, pycocotools: AP {files['onnx-int4'].parity.ap:.4f}" in done.stdout
            and 'squares of 160 pixels' in done.stdout and 'one2many' not in done.stdout)


def test_refused(folder, scenes, checkpoint, files):
    "What is asked for makes no sense, or is no file of ours; nothing is left behind."
    content = load_checkpoint(checkpoint)
    save_checkpoint(folder/'odd.pt',
                    content | dict(manifest=[e | dict(bits=3) if e['bits'] == 4 else e for e in content['manifest']]))
    del content['model_state_dict']['model.5.cv1.conv.weight']
    save_checkpoint(folder/'part.pt', content)
    (folder/'plain.onnx').write_bytes(
        onnx.helper.make_model(onnx.helper.make_graph([], 'g', [], [])).SerializeToString())
    def write(name, out, *how, data=scenes):
        return lambda: export_checkpoint(folder/name, folder/out, *how, coco_root=data)
    for ask, piece in (
            (write('demo.pt', 'packed.safetensors'), 'exists; remove it, or choose another --out'),
            (write('demo.pt', 'x.onnx', 'onxx'), "--format 'onxx' is unknown; use one of packed, onnx-int4"),
            (write('demo.pt', 'x.bin'), 'must end in .safetensors'),
            (write('demo.pt', 'x.safetensors', data=None), 'name the data to compare the file on with --coco-root'),
            (write('odd.pt', 'x.onnx', 'onnx-int4'), 'stores weights of 4 and 8 bits, model.1.conv has 3'),
            (write('part.pt', 'x.safetensors'), 'model.5.cv1.conv.weight'),
            (write('absent.pt', 'x.safetensors'), 'no checkpoint'),
            (lambda: evaluate_file(folder/'plain.onnx', scenes), 'no exported file of this project'),
            (lambda: evaluate_file(files['onnx-int4'].path, scenes, 320), 'takes 160 x 160 pixels, not 320')):
        with pytest.raises((ValueError, OSError)) as error: ask()
        assert piece in str(error.value)
    done = command('export', checkpoint, '--out', folder/'x.onnx', '--format', 'onnx-int4', '--opset', 17,
                   '--coco-root', scenes)
    assert done.returncode == 1 and done.stderr.count(
        '\n') == 1 and 'needs an opset from 21 to 25, got 17' in done.stderr
    assert not [p for p in folder.iterdir() if p.name.startswith('x.')]


def test_other_classes(files, scenes, tmp_path):
    "The same number of classes, one by another name."
    (tmp_path/'coco'/'annotations').mkdir(parents=True)
    (tmp_path/'coco'/'val2017').symlink_to(scenes/'val2017')
    content = json.loads((scenes/'annotations'/'instances_val2017.json').read_text())
    content['categories'][0]['name'] = 'unicorn'
    (tmp_path/'coco'/'annotations'/'instances_val2017.json').write_text(json.dumps(content))
    with pytest.raises(ValueError, match='other classes than the data.*unicorn.*1 of .* are not there'):
        validation_view(tmp_path/'coco', tmp_path/'view', open_detector(files['onnx-int4'].path).names, 'model.onnx')


@pytest.mark.parametrize('format', ['packed', 'onnx-int4'])
def test_any_edit_is_noticed(files, format, tmp_path):
    "A bit flipped anywhere in the numbers, and a file cut anywhere."
    from pathlib import Path
    data, draw = Path(files[format].path).read_bytes(), random.Random(0)
    read = {'packed': read_packed, 'onnx-int4': read_onnx}[format]
    for i in range(24):
        place, path = draw.randrange(len(data)//10, len(data)), tmp_path/f'{i}{SUFFIXES[format]}'
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << draw.randrange(8))]) + data[place+1:] if i % 2
                         else data[:place])
        with pytest.raises(CheckpointError): read(path)


# As they were written first

def test_first_packed():
    header, tensors = read_packed(EXAMPLES/'packed-v1.safetensors')
    assert (header['version'], header['epoch'], header['layers'][0]['bits']) == (1, 3, 3)
    codes = np.array([[[[1, -4], [3, 0]]], [[[-1, 2], [-2, 3]]]])
    assert (unpack(tensors['model.0.conv.codes'].numpy(), 3, (2, 1, 2, 2)) == codes).all()
    found = decode(EXAMPLES/'packed-v1.safetensors')
    assert found['model.0.conv']['weight'] == (
        codes*np.array([.5, -.25]).reshape(2, 1, 1, 1)).ravel().tolist() and found['model.0.conv']['bias'] == [1, 2]
    assert found['model.1.dfl.conv']['weight'] == [0, 1, 2, 3] and found['model.1.dfl.conv']['bias'] is None


def test_first_onnx():
    "A graph of one convolution: two anchors, a class."
    detector = OnnxDetector(EXAMPLES/'onnx-v1.onnx')
    assert (detector.facts['version'], detector.facts['format'], detector.heads, detector.imgsz, detector.names,
            detector.stride) == (1, 'onnx-int4', ('one2many',), 2, {0: 'thing'}, 2)
    images = torch.arange(12.).reshape(1, 3, 2, 2)
    expected = (torch.tensor([[7., -8, 0], [1, 2, 3], [0, 0, 0], [-1, 1, -1], [4, 4, 4]])*torch.tensor([[.5], [1], [2], [-.25], [1]])) @ images.reshape(3, 4)[:, ::2]
    torch.testing.assert_close(detector(images)['one2many'][0], expected)


# The real network

@pytest.mark.slow
def test_real_weights(shared, tmp_path):
    "YOLOv10n with COCO's weights, biases corrected without training, at 640 pixels on all 158 images: every format has the AP of torch, and the sizes that were promised."
    from yolov10_qat.studies.ptq_ladder import run_ladder
    base = shared/'weights'/'yolov10n-coco.pt'
    run_ladder(base, shared/'coco-mini', tmp_path/'ladder', ['bias'], imgsz=320, val_max_images=16)
    found = deployment(tmp_path/'ladder'/'bias.pt')
    reference = Reference(found.model,
                          validation_view(shared/'coco-mini', tmp_path/'view', found.facts['names'], 'yolo10n'), 640)
    made = {format: export(found, tmp_path/f'{format}{SUFFIXES[format]}', reference, format)[0]
            for format in FORMATS if format != 'litert'}
    for e in made.values():
        most = 5e-3 if e.format == 'coreml' else 1e-3  # FP16: 0.0016 was measured with another checkpoint
        assert e.parity.images == 158 and e.parity.ap > .2 and abs(e.parity.ap - e.parity.ap_torch) < most
    assert made['packed'].sizes.file < 1_450_000 and made[
        'onnx-int4'].sizes.file < 1_800_000 and made['onnx-fp32'].sizes.file > 9_000_000
