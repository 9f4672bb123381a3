"A LiteRT file: our integers bit for bit, torch's numbers; from a stranger, one line; without its packages, how to get them."
import json
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

pytest.importorskip('ai_edge_litert')

from ai_edge_litert import schema_py_generated as sp

from bounded import bounded
from conftest import REPOSITORY
from hostile import answer, flipped, mutate, watched
from litert_example import FLOATS, SHAPES, SIDE, Network, tiny_deployment
from test_export import checkpoint, folder, scenes  # noqa: F401
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.cli import main
from yolov10_qat.deploy import litert_file, targets
from yolov10_qat.deploy.detectors import evaluate_file, open_detector
from yolov10_qat.deploy.export import export_checkpoint
from yolov10_qat.deploy.litert_file import (
    LITERT_DIGEST,
    LITERT_KEY,
    LiteDetector,
    LiteSession,
    as_halves,
    check_litert_weights,
    describe_litert,
    litert_bytes,
    litert_digest,
    litert_model,
    read_litert,
)
from yolov10_qat.deploy.network import deployment

IMAGE = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def described(): return describe_litert(litert_model(FLOATS.read_bytes(), tiny_deployment().layers), tiny_deployment(), 'raw', SIDE)

@pytest.fixture(scope='module')
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp('litert')/'tiny.tflite'
    path.write_bytes(litert_bytes(described()))
    return path

def expected():
    with torch.no_grad(): return Network()(IMAGE)


def test_weights_by_hand(file):
    "Integers and scales read by indices alone: no function of the package packs, unpacks or turns them."
    model = sp.ModelT.InitFromPackedBuf(file.read_bytes(), 0)
    graph, seen = model.subgraphs[0], 0
    for layer in tiny_deployment().layers[:4]:
        name, (o, i, h, w), bits = (layer.entry[k] for k in ('name', 'shape', 'bits'))
        at = next(k for k, t in enumerate(graph.tensors) if t.name == f'{name}.codes'.encode())
        tensor, data = graph.tensors[at], bytes(model.buffers[graph.tensors[at].buffer].data)
        assert tensor.type == (sp.TensorType.INT8 if bits == 8 else sp.TensorType.INT4)
        assert np.float32(tensor.quantization.scale).tobytes() == layer.scale.numpy().tobytes() and not any(tensor.quantization.zeroPoint)
        for a, b, c, d in np.ndindex(o, i, h, w):
            place = (c*w + d)*o + a if i == 1 and h > 1 else ((a*h + c)*w + d)*i + b
            value = data[place] if bits == 8 else data[place//2] >> 4*(place % 2) & 15
            assert value - (value >= 2**(7 if bits == 8 else 3))*2**(8 if bits == 8 else 4) == layer.codes_oihw[a, b, c, d], (name, a, b, c, d)
            seen += 1
        reads = [x for x in graph.operators if at in x.inputs]
        assert len(reads) == 1 and model.operatorCodes[reads[0].opcodeIndex].builtinCode == sp.BuiltinOperator.DEQUANTIZE
    assert seen == sum(np.prod(s) for s, bits in SHAPES.values() if bits)


def test_same_numbers(file):
    "Float arithmetic: equal to torch up to rounding, which activations in 8 bits would not be; FP16 weights differ more."
    detector = LiteDetector(file)
    for a, b in zip(detector.run(IMAGE), expected()): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    halves = LiteSession(litert_bytes(litert_model(FLOATS.read_bytes(), tiny_deployment().layers, as_halves)))
    off = np.abs(halves.run(['output0', 'raw'], {'images': IMAGE.numpy()})[1] - expected()[1].numpy()).max()
    assert 1e-5 < off < 1e-2
    assert isinstance(open_detector(file), LiteDetector) and detector(IMAGE)['one2one'].shape == (1, 16, 6)


@pytest.mark.parametrize('name', ['stem', 'depth', 'point', 'odd'])
def test_other_weights(file, name):
    "One integer or one scale that is not the checkpoint's is found."
    for part in ('codes_oihw', 'scale'):
        found = tiny_deployment()
        k = [*SHAPES].index(name)
        value = getattr(found.layers[k], part).clone()
        value.view(-1)[-1] = value.view(-1)[-1] ^ 1 if part == 'codes_oihw' else torch.nextafter(value[-1], torch.tensor(1.))
        found.layers[k] = found.layers[k]._replace(**{part: value})
        with pytest.raises(CheckpointError, match=f'{name} differs'): check_litert_weights(file, found)
    assert check_litert_weights(file, tiny_deployment()).facts['names'] == {0: 'red', 1: 'green'}


def test_refused_requests(tmp_path, monkeypatch):
    "One line each, before a checkpoint is opened."
    def ask(piece, out='x.tflite', **how):
        with pytest.raises(ValueError, match=piece) as error: export_checkpoint(tmp_path/'none.pt', tmp_path/out, 'litert', **how)
        assert len(str(error.value).splitlines()) == 1
    ask('must end in .tflite', out='x.onnx')
    ask('takes one image of one size', dynamic=True)
    ask('takes one image of one size', opset=17)
    monkeypatch.setattr(targets, 'find_spec', lambda name: None)
    ask(r"an environment of its own.*pip install '\.\[litert\]' litert-torch==0.10.0 'torch<2.15'")
    monkeypatch.setattr(litert_file, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'yolov10-qat\[litert\]'"): read_litert(FLOATS)
    with pytest.raises(ValueError, match='model.1.conv has one per group of 32 input channels; use --format packed or onnx-int4'):
        targets.check_groups('litert', [dict(name='model.1.conv', group_size=32)])


# From a stranger

def stranger(path, change):
    "A file with one thing changed, and a digest that fits."
    model = described()
    change(model)
    path.write_bytes(litert_bytes(model))
    return path

def opened(path):
    "Why a file is refused when it is opened and run, in one line; None: it is not."
    try: LiteDetector(path)(IMAGE)
    except CheckpointError as e:
        assert len(str(e).splitlines()) == 1 and str(path) in str(e)
        return str(e)

def tensor(model, name): return next(t for t in model.subgraphs[0].tensors if t.name in (name, name.encode()))
def said(model, key): return next(model.buffers[m.buffer] for m in model.metadata if m.name in (key, key.encode()))
def last(model): return model.subgraphs[0].operators[-1]
def custom(model): model.operatorCodes[0].builtinCode, model.operatorCodes[0].customCode = sp.BuiltinOperator.CUSTOM, 'FlexWriteFile'
def named(model): model.operatorCodes[0].customCode = 'FlexWriteFile'
def builtin(model): model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = sp.BuiltinOperator.WHILE
def beyond(model): last(model).opcodeIndex = 99
def nowhere(model): last(model).inputs = [10_000]
def itself(model): last(model).inputs = [*last(model).outputs]
def constant(model): last(model).outputs = [model.subgraphs[0].operators[0].inputs[0]]
def negative(model): last(model).inputs = [-2]
def smaller(model): tensor(model, 'point.weight').shape = [1, 1, 1, 8]
def wider(model): tensor(model, 'raw').shape = [1, 6, 17]
def no_inputs(model): last(model).inputs = None
def more_inputs(model): model.subgraphs[0].operators[0].inputs = [*model.subgraphs[0].operators[0].inputs]*2
def no_output(model): last(model).outputs = None
def two_graphs(model): model.subgraphs *= 2
def outside(model): model.buffers[tensor(model, 'stem.codes').buffer].offset, model.buffers[tensor(model, 'stem.codes').buffer].size = 1 << 40, 8
def short(model): model.buffers[tensor(model, 'stem.codes').buffer].data = np.zeros(107, np.uint8)
def no_codes(model): model.buffers[tensor(model, 'stem.codes').buffer].data = np.zeros(0, np.uint8)
def huge(model): tensor(model, 'odd.weight').shape = [2**15, 2**15, 2**15, 2**15]
def variable(model): tensor(model, 'odd.weight').isVariable = True
def text(model): tensor(model, 'odd.weight').type = sp.TensorType.STRING
def floats(model): tensor(model, 'odd.codes').name = 'odd.numbers'
def turned(model): tensor(model, 'stem.codes').quantization.quantizedDimension = 3
def fewer_scales(model): tensor(model, 'stem.codes').quantization.scale = np.ones(7, np.float32)
def inputs(model): tensor(model, 'images').name = 'pictures'
def one_output(model): model.subgraphs[0].outputs = model.subgraphs[0].outputs[:1]
def no_header(model): model.metadata = [m for m in model.metadata if m.name not in (LITERT_KEY, LITERT_KEY.encode())]
def cut(model):
    "A slice of three axes whose corner has one number."
    graph, number = model.subgraphs[0], len(model.subgraphs[0].tensors)
    for values in ([0], [1, 6, 16]):
        model.buffers.append(sp.BufferT(data=np.array(values, np.int32).view(np.uint8)))
        graph.tensors.append(sp.TensorT(name=f'corner{len(values)}', shape=[len(values)], type=sp.TensorType.INT32, buffer=len(model.buffers)-1))
    graph.tensors.append(sp.TensorT(name='part', shape=[1, 6, 16], type=sp.TensorType.FLOAT32))
    model.operatorCodes.append(sp.OperatorCodeT(builtinCode=sp.BuiltinOperator.SLICE, deprecatedBuiltinCode=sp.BuiltinOperator.SLICE, version=1))
    raw = next(i for i, t in enumerate(graph.tensors) if t.name in ('raw', b'raw'))
    graph.operators.append(sp.OperatorT(opcodeIndex=len(model.operatorCodes)-1, inputs=[raw, number, number+1], outputs=[number+2]))
def header(**changes):
    def change(model):
        buffer = said(model, LITERT_KEY)
        buffer.data = np.frombuffer(json.dumps(json.loads(bytes(buffer.data)) | changes).encode(), np.uint8)
    return change
def bits(model):
    buffer = said(model, LITERT_KEY)
    buffer.data = np.frombuffer(bytes(buffer.data).replace(b'"bits": 3', b'"bits": 7'), np.uint8)

REFUSED = [(custom, 'FlexWriteFile'), (named, 'FlexWriteFile'), (builtin, 'an operator that we do not use'), (beyond, 'no whole'),
           (nowhere, 'reads a tensor without a value'), (itself, 'reads a tensor without a value'), (constant, 'writes one that has one'),
           (negative, 'reads a tensor without a value'), (smaller, 'whose shapes do not fit'), (wider, 'whose shapes do not fit'), (cut, 'a SLICE whose shapes do not fit'), (no_inputs, 'of 0 tensors'), (more_inputs, 'has a'), (no_output, 'gives 0'), (two_graphs, 'has 2 graphs'), (outside, 'outside of its graph'),
           (short, 'has 107 bytes'), (no_codes, 'reads a tensor without a value'), (huge, 'of the shape'), (variable, 'of a kind'),
           (text, 'of a kind'), (floats, 'no integers for odd'), (turned, 'has another stem'), (fewer_scales, 'has another stem'),
           (inputs, 'should take images'), (one_output, 'should take images'), (no_header, LITERT_KEY), (bits, 'has another odd'),
           (header(version=2), 'version'), (header(imgsz=0), 'imgsz'), (header(dynamic=True), 'dynamic'), (header(more=1), 'more'),
           (header(format='onnx-int4'), 'format'), (header(names={'1': 'a'}), 'without a gap'), (header(stride=0), 'stride'),
           (header(layers=[]), 'layers'), (header(output='other'), 'output'), (header(names={'0': 'a'}), 'it answers with')]

@pytest.mark.parametrize('change, reason', REFUSED, ids=[f'{c.__name__} {r}' for c, r in REFUSED])
def test_refused(tmp_path, change, reason):
    with watched(tmp_path): assert reason in (opened(stranger(tmp_path/'x.tflite', change)) or '')


def test_many_parts_of_few_bytes(tmp_path, monkeypatch):
    "A vector that is too long is refused before it is walked."
    path = tmp_path/'x.tflite'
    path.write_bytes(litert_bytes(described()))
    monkeypatch.setattr(litert_file._many, '__defaults__', (20,))
    with pytest.raises(CheckpointError, match='20 at most are expected'): read_litert(path)


def test_bytes(tmp_path, file):
    "No file, no file of ours, cut, changed, too large, its digest twice."
    data, path = file.read_bytes(), tmp_path/'x.tflite'
    with pytest.raises(FileNotFoundError): read_litert(path)
    mark = f'{LITERT_DIGEST}='.encode()
    for content, reason in ((b'', 'no LiteRT file'), (data[:100], 'no exported file'), (data[:-4], 'its digest is wrong'),
                            (FLOATS.read_bytes(), 'no exported file'), (data + b'\0', 'its digest is wrong'),
                            (data + mark + b'0'*64, 'no exported file'), (data.replace(b'green', b'grean'), 'its digest is wrong'),
                            (data.replace(mark, mark + b'0'), 'its digest is wrong')):
        path.write_bytes(content)
        with watched(tmp_path): assert reason in (opened(path) or ''), reason
    assert opened(file) is None and data.count(mark) == 1


def test_a_file_has_a_limit(file, monkeypatch):
    monkeypatch.setattr(litert_file, 'LARGEST_LITERT', file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match='is larger than'): read_litert(file)


@pytest.mark.parametrize('change', [custom, short, header(imgsz=0)])
def test_through_eval(change, tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = answer(main, 'eval', stranger(tmp_path/'x.tflite', change), '--coco-root', tiny/'coco')
    assert code == 1 and len(err.splitlines()) == 1 and 'x.tflite' in err and not out


def signed(data):
    "With a digest that fits."
    old, new = (word.encode() for word in litert_digest(data))
    return data.replace(old, new) if old else data

def _damaged(where, count, seed):
    "One thing wrong a file, its digest computed again or not: names of files, by what is wrong."
    draw, model_bytes = random.Random(seed), litert_bytes(described())
    for i in range(count):
        kind, path = draw.choice(['header', 'bytes', 'bytes', 'bytes', 'digest', 'cut']), where/f'{i}.tflite'
        if kind == 'header':
            model = described()
            facts = mutate(json.loads(bytes(said(model, LITERT_KEY).data)), draw)[0]
            said(model, LITERT_KEY).data = np.frombuffer(json.dumps(facts).encode(), np.uint8)
            path.write_bytes(litert_bytes(model))
        elif kind == 'cut': path.write_bytes(model_bytes[:draw.randrange(len(model_bytes))])
        else:
            damaged = flipped(model_bytes, draw, draw.choice([1, 1, 2, 8]))
            path.write_bytes(signed(damaged) if kind == 'bytes' else damaged)
        yield path

def test_fuzz_of_the_reader(tmp_path):
    "Before LiteRT sees anything: one line, and quickly."
    counted = Counter()
    for path in _damaged(tmp_path, 300, 0):
        with watched(tmp_path, seconds=20):
            try: read_litert(path)
            except CheckpointError as e:
                assert len(str(e).splitlines()) == 1 and str(path) in str(e)
                counted[next((w for w in ('digest', 'no exported', 'no LiteRT', 'no whole', LITERT_KEY, 'as no file') if w in str(e)), str(e))] += 1
            else: counted['opened'] += 1
    assert {'digest', 'no whole', 'as no file', 'opened'} <= counted.keys(), counted


# The converter, in an environment of its own

@pytest.fixture(scope='module')
def converter(tmp_path_factory):
    "Its Python: $LITERT_PYTHON, or one that is made now."
    if given := os.environ.get('LITERT_PYTHON'): return given
    made = tmp_path_factory.mktemp('converter')
    subprocess.run([sys.executable, '-m', 'venv', made], check=True)
    python = made/'bin'/'python'
    subprocess.run([python, '-m', 'pip', 'install', '-q', f'{REPOSITORY}[litert]', 'litert-torch==0.10.0', 'torch<2.15'], check=True)
    return python

@pytest.mark.slow
@pytest.mark.parametrize('output', ['one2one', 'raw', 'one2many'])
def test_conversion(converter, tmp_path, output, checkpoint, scenes):  # noqa: F811
    "Exported there, read, compared and scored here."
    out = tmp_path/'demo.tflite'
    done = bounded([converter, '-m', 'yolov10_qat', 'export', checkpoint, '--format', 'litert', '--out', out, '--head', output,
                    '--coco-root', scenes], env=os.environ | dict(PYTHONPATH=str(REPOSITORY)), timeout_s=1500)
    assert done.returncode == 0, done.stderr
    assert "4-bit weights, float arithmetic: LiteRT's CPU kernels dequantise them" in done.stdout and 'by litert' in done.stdout
    found = deployment(checkpoint, head=targets.HEAD_OF[output])
    held = check_litert_weights(out, found)
    assert len(held.weights) == 83 and sum(c.size for c, _ in held.weights.values()) > 2_000_000
    scores, words = evaluate_file(out, scenes)
    ap = scores[targets.HEAD_OF[output]].pycocotools['AP']
    assert f'AP {ap:.4f} by litert' in done.stdout and ap > .1 and words == 'squares of 160 pixels'
