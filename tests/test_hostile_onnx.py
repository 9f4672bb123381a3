"An ONNX file from a stranger: no other file is read, no graph of another kind is run, the answer is one line."
import json
import random
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from hostile import answer, flipped, mutate, watched
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.cli import main
from yolov10_qat.deploy.onnx_file import DIGEST_KEY, ONNX_KEY, OnnxDetector, onnx_digest

EXAMPLE = Path(__file__).parent/'examples'/'onnx-v1.onnx'
IMAGE = torch.zeros(1, 3, 2, 2)


def entry(model, key): return next(p for p in model.metadata_props if p.key == key)

def written(path, model, honest=True):
    "A file whose digest fits, as a stranger would write it."
    if honest: entry(model, DIGEST_KEY).value = onnx_digest(model)
    path.write_bytes(model.SerializeToString())
    return path

def opened(path):
    "Why a file is refused when it is opened and run, in one line; None: it is not."
    try: OnnxDetector(path)(IMAGE)
    except CheckpointError as e:
        assert len(str(e).splitlines()) == 1 and str(path) in str(e)
        return str(e)

def external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value='../../../../etc/passwd')

def external_constant(model):
    node = helper.make_node('Constant', [], ['more'], value=onnx.numpy_helper.from_array(torch.zeros(2).numpy()))
    node.attribute[0].t.external_data.add(key='location', value='/etc/passwd')
    model.graph.node.append(node)

def loop(model): model.graph.node.append(helper.make_node('Loop', ['', ''], ['more'], body=model.graph))
def function(model): model.functions.add(name='f', domain='')
def strange(model): model.graph.node[0].domain = 'com.microsoft'
def unknown(model): model.graph.node[0].op_type = 'Nothing'
def another_input(model): model.graph.input[0].name = 'pictures'
def flat_input(model): del model.graph.input[0].type.tensor_type.shape.dim[:]
def whole_numbers(model): model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
def two_outputs(model): model.graph.output.append(model.graph.output[0])
def more_classes(model): entry(model, 'names').value = "{0: 'a', 1: 'b'}"
def code_for_names(model): entry(model, 'names').value = "__import__('os').mkdir('owned')"
def a_gap(model): entry(model, 'names').value = "{1: 'a'}"
def brackets(model): entry(model, 'names').value = '['*100_000
def no_stride(model): entry(model, 'stride').value = '0'
def fact(**changes):
    def change(model): entry(model, ONNX_KEY).value = json.dumps(json.loads(entry(model, ONNX_KEY).value) | changes)
    return change

REFUSED = [(external, 'in another file'), (external_constant, 'in another file'), (loop, 'graphs'), (function, 'graphs'),
           (strange, 'com.microsoft'), (unknown, 'cannot be run'), (another_input, 'should take images'),
           (flat_input, 'should take images'), (whole_numbers, 'should take images'), (two_outputs, 'should take images'),
           (more_classes, 'it answers with'), (code_for_names, 'names'), (a_gap, 'without a gap'), (brackets, 'names'),
           (no_stride, 'stride'), (fact(imgsz=-1), 'imgsz'), (fact(imgsz='x'), 'imgsz'), (fact(output='other'), 'output'),
           (fact(dynamic=1), 'dynamic'), (fact(layers=[3]), 'layers.0'), (fact(version=2), 'version'), (fact(more=1), 'more'),
           (fact(epoch=None), 'epoch'), (fact(format='torch'), 'format')]


@pytest.mark.parametrize('change, reason', REFUSED, ids=[f'{c.__name__} {r}' for c, r in REFUSED])
def test_refused(change, reason, tmp_path):
    model = onnx.load(EXAMPLE)
    change(model)
    with watched(tmp_path): assert reason in (opened(written(tmp_path/'x.onnx', model)) or '')


def test_an_edit_is_noticed(tmp_path):
    for change in (more_classes, fact(imgsz=64), unknown):
        model = onnx.load(EXAMPLE)
        change(model)
        assert 'its digest is wrong' in opened(written(tmp_path/'x.onnx', model, honest=False))
    assert opened(EXAMPLE) is None


@pytest.mark.parametrize('change', [external, code_for_names, unknown])
def test_through_eval(change, tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = onnx.load(EXAMPLE)
    change(model)
    code, out, err = answer(main, 'eval', written(tmp_path/'x.onnx', model), '--coco-root', tiny/'coco')
    assert code == 1 and len(err.splitlines()) == 1 and 'x.onnx' in err
    assert not out
    assert not (tmp_path/'owned').exists()


def _fuzz(folder, count, seed):
    "One thing wrong a file: a fact, a byte of the graph (digest computed anew or not), an end. What was said, counted."
    draw, said, whole = random.Random(seed), Counter(), EXAMPLE.read_bytes()
    for i in range(count):
        path, kind = folder/f'{i}.onnx', draw.choice(['fact', 'fact', 'graph', 'graph', 'byte', 'cut'])
        model = onnx.load(EXAMPLE)
        if kind == 'fact':
            facts = mutate(json.loads(entry(model, ONNX_KEY).value), draw)[0]
            entry(model, ONNX_KEY).value = json.dumps(facts)
            written(path, model)
        elif kind == 'graph':
            try: model.graph.ParseFromString(flipped(model.graph.SerializeToString(), draw, draw.choice([1, 1, 2])))
            except Exception: continue  # no graph any more: what 'byte' tries
            written(path, model)
        elif kind == 'byte': path.write_bytes(flipped(whole, draw))
        else: path.write_bytes(whole[:draw.randrange(len(whole))])
        with watched(folder, seconds=60): reason = opened(path)
        words = ('digest', 'cut off', 'cannot be run', 'should take', 'no tensor', 'no exported', 'take another copy')
        said['opened' if reason is None else next((w for w in words if w in reason), reason)] += 1
        path.unlink()
    return said


def test_fuzz(tmp_path):
    said = _fuzz(tmp_path, 300, 0)
    assert {'digest', 'cut off', 'cannot be run', 'take another copy', 'opened'} <= said.keys(), said


@pytest.mark.slow
def test_fuzz_of_2000(tmp_path):
    said = _fuzz(tmp_path, 2000, 1)
    print(said)
    assert {'digest', 'cut off', 'cannot be run', 'take another copy', 'opened'} <= said.keys(), said
