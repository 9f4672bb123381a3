"What the doors of exported files refuse, one thing a test: a layer too few or twice, tensors elsewhere, other operators, too large."

import onnx
import pytest
from onnx import AttributeProto, TensorProto

from test_hostile_onnx import EXAMPLE
from test_hostile_onnx import written as written_onnx
from test_hostile_packed import opened, packed, written  # noqa: F401
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.deploy import onnx_file
from yolov10_qat.deploy.onnx_file import read_onnx


def test_a_layer_that_is_there_twice(packed, tmp_path):  # noqa: F811
    header, tensors = packed
    layers = [*header['layers'], header['layers'][0]]
    assert 'layers: one is there twice' in opened(written(tmp_path/'x.safetensors', header | dict(layers=layers), tensors))


def test_a_layer_too_few(packed, tmp_path):  # noqa: F811
    "The network would keep weights that nobody trained."
    header, tensors = packed
    gone = header['layers'][3]['name']
    rest = {k: t for k, t in tensors.items() if not k.startswith(f'{gone}.')}
    layers = [e for e in header['layers'] if e['name'] != gone]
    said = opened(written(tmp_path/'x.safetensors', header | dict(layers=layers), rest))
    assert f'layers do not fit the network: 1 are too many or missing, the first is {gone}' in said


def refused(tmp_path, change):
    model = onnx.load(EXAMPLE)
    change(model)
    with pytest.raises(CheckpointError) as caught: read_onnx(written_onnx(tmp_path/'x.onnx', model))
    return str(caught.value)


def external(tensor):
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key='location', value='../../etc/passwd')

def in_a_list(model):
    attribute = model.graph.node[0].attribute.add(name='more', type=AttributeProto.TENSORS)
    external(attribute.tensors.add())

def sparse(model): model.graph.sparse_initializer.add()
def sparse_attribute(model): model.graph.node[0].attribute.add(name='more', type=AttributeProto.SPARSE_TENSOR)
def domain(name):
    def change(model): model.graph.node[0].domain = name
    return change

DOORS = [(in_a_list, 'keeps numbers in another file'), (sparse, 'sparse tensors within'), (sparse_attribute, 'sparse tensors within'),
         (domain('onnx.brevitasx'), 'of the domain onnx.brevitasx'), (domain('qonnxx.more'), 'of the domain qonnxx.more')]

@pytest.mark.parametrize('change, words', DOORS, ids=range(len(DOORS)))
def test_what_no_file_of_ours_has(tmp_path, change, words): assert words in refused(tmp_path, change)


def test_an_onnx_file_has_a_limit(monkeypatch):
    size = EXAMPLE.stat().st_size
    monkeypatch.setattr(onnx_file, 'LARGEST_ONNX', size)
    read_onnx(EXAMPLE)
    monkeypatch.setattr(onnx_file, 'LARGEST_ONNX', size-1)
    with pytest.raises(CheckpointError, match='is larger than'): read_onnx(EXAMPLE)
