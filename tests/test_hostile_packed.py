"A packed file from a stranger: nothing is built from what it says, its header cannot be edited unnoticed, the answer is one line."
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from decoder import check_digest, decode
from hostile import FAKE, answer, flipped, mutate, watched
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.checkpoint.store import random_model, save_checkpoint
from yolov10_qat.cli import main
from yolov10_qat.deploy.network import deployment
from yolov10_qat.deploy.packed import PACKED_KEY, digest, load_packed, read_packed, save_packed
from yolov10_qat.quant.layers import plan, quantize

EXAMPLES = Path(__file__).parent/'examples'


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    "A whole packed file of a real network: header and tensors."
    folder = tmp_path_factory.mktemp('packed')
    model = random_model('yolo10n', ['red', 'green'], seed=0)
    manifest = plan(model)
    quantize(model, manifest)
    file = save_checkpoint(folder/'model.pt', dict(
        epoch=1, optimizer=None, train_args=dict(imgsz=64), ema_updates=0, resume={}, ema_state_dict=None,
        model_state_dict=model.state_dict(), model_yaml=model.yaml, names=model.names, manifest=manifest))
    return read_packed(save_packed(deployment(file), folder/'model.safetensors'))


def written(path, header, tensors, honest=True):
    "A packed file with any header; `honest` computes the digest anew, as a stranger would."
    if honest:
        try: header = header | dict(digest=digest(tensors, header))
        except (TypeError, KeyError, ValueError, RecursionError): pass
    save_file(tensors, path, {PACKED_KEY: json.dumps(header)})
    return path


def opened(path):
    "Why a file is refused, in one line; None: it is not."
    try: load_packed(path)
    except CheckpointError as e:
        assert len(str(e).splitlines()) == 1 and str(path) in str(e)
        return str(e)


def test_the_digest_covers_the_header(packed, tmp_path):
    "Names, bits, size, model, source: nothing can be edited unnoticed. In version 1 it could."
    header, tensors = packed
    assert opened(written(tmp_path/'whole.safetensors', header, tensors, honest=False)) is None
    edits = dict(names={'0': 'green', '1': 'red'}, imgsz=96, epoch=2, weights='raw', source_sha256='0'*64,
                 manifest_sha256='1'*64, model_yaml=header['model_yaml'] | dict(yaml_file='other.yaml'))
    assert {*edits} | {'layers', 'version', 'digest'} == header.keys()
    for key, value in edits.items():
        path = written(tmp_path/f'{key}.safetensors', header | {key: value}, tensors, honest=False)
        assert 'its digest is wrong' in opened(path), key
    layers = [header['layers'][0] | dict(kept_why='x'), *header['layers'][1:]]
    path = written(tmp_path/'layers.safetensors', header | dict(layers=layers), tensors, honest=False)
    assert 'its digest is wrong' in opened(path)


def test_examples_open(packed, tmp_path):
    "All versions; the digest since version 2 is what a reader that knows the table alone computes."
    for version in (1, 2, 3):
        file = EXAMPLES/f'packed-v{version}.safetensors'
        assert read_packed(file)[0]['version'] == version and check_digest(file)
        assert decode(file)['model.0.conv']['bits'] == 3
    assert check_digest(written(tmp_path/'new.safetensors', *packed))


def test_nothing_is_built_from_its_definition(packed, tmp_path, tiny):
    "S2: an activation that is evaluated, a row that names a function, through every command that opens the file."
    header, tensors = packed
    definitions = dict(
        activation=dict(activation=f"__import__('os').mkdir('{tmp_path/'owned'}')"),
        row=dict(backbone=[[-1, 1, 'torch_load', [str(tmp_path/'trap.pt')]], *header['model_yaml']['backbone'][1:]]),
        scale=dict(scales={'n': [9., 9., 1024]}))
    for name, change in definitions.items():
        path = written(tmp_path/f'{name}.safetensors', header | dict(model_yaml=header['model_yaml'] | change), tensors)
        for words in (['eval', path, '--coco-root', tiny/'coco'], ['checkpoint', 'verify', path],
                      ['checkpoint', 'show', path], ['export', path, '--out', tmp_path/'x.safetensors']):
            with watched(tmp_path, '/tmp', seconds=300, usual=('os.fork', 'os.', 'subprocess.Popen')):
                code, _out, err = answer(main, *words)
            assert code in (1, 2) and len(err.splitlines()) == 1, (name, words[0], err)
            assert not (tmp_path/'owned').exists()
        assert 'only the number of classes may differ' in opened(path)


@pytest.mark.parametrize('change, reason', [
    (dict(names={'0': 'a', '2': 'b'}), 'without a gap'), (dict(names={'0': 5}), 'names.0'),
    (dict(names={str(i): 'x' for i in range(10_001)}), 'names'), (dict(imgsz=-1), 'imgsz'), (dict(imgsz=1e9), 'imgsz'),
    (dict(layers=[]), 'layers'), (dict(layers='x'), 'layers'), (dict(version=4), 'version'), (dict(version='1'), 'version'),
    (dict(epoch=True), 'epoch'), (dict(extra=1), 'extra'), (dict(weights='a'*30), 'weights'), (dict(digest='x'), 'digest')])
def test_its_header_has_types_and_ranges(packed, tmp_path, change, reason):
    header, tensors = packed
    assert reason in opened(written(tmp_path/'x.safetensors', header | change, tensors, honest='digest' not in change))


@pytest.mark.parametrize('bits, shape, reason', [
    (5, None, 'is U8'), (9, None, 'bits'), (1, None, 'bits'), (4, [16, 3, 3, 4], 'is U8'), (4, [2**16]*4, 'is expected'),
    (4, [16, 27, 1, 1], 'has the shape'), (4, [0, 3, 3, 3], 'shape'), (None, None, 'has no tensor')])
def test_its_layers_are_those_of_the_network(packed, tmp_path, bits, shape, reason):
    "A shape is compared with the bytes that are there and with the network before anything is made of it."
    header, tensors = packed
    first = header['layers'][0] | dict(bits=bits) | (dict(shape=shape) if shape else {})
    path = written(tmp_path/'x.safetensors', header | dict(layers=[first, *header['layers'][1:]]), tensors)
    assert reason in opened(path)


def test_a_layer_that_the_network_does_not_have(packed, tmp_path):
    header, tensors = packed
    old, new = header['layers'][0]['name'], FAKE
    layers = [header['layers'][0] | dict(name=new), *header['layers'][1:]]
    moved = {k.replace(f'{old}.', f'{new}.') if k.startswith(f'{old}.') else k: t for k, t in tensors.items()}
    reason = opened(written(tmp_path/'x.safetensors', header | dict(layers=layers), moved))
    assert 'has no convolution' in reason and '\x1b' not in reason
    extra = tensors | {'more.weight': torch.zeros(1)}
    assert 'nothing by that name is expected' in opened(written(tmp_path/'y.safetensors', header, extra))


def _fuzz(packed, folder, count, seed):
    "One thing wrong a file: a value of the header (digest computed anew or not), a bit, an end. What was said, counted."
    (header, tensors), draw, said = packed, random.Random(seed), Counter()
    whole = written(folder/'whole.safetensors', header, tensors).read_bytes()
    start = 8+int.from_bytes(whole[:8], 'little')
    for i in range(count):
        path, kind = folder/f'{i}.safetensors', draw.choice(['header']*6 + ['early bit', 'late bit', 'cut'])
        if kind == 'header': written(path, mutate(header, draw)[0], tensors, honest=draw.random() < .8)
        elif kind == 'cut': path.write_bytes(whole[:draw.randrange(len(whole))])
        elif kind == 'early bit': path.write_bytes(flipped(whole[:start], draw) + whole[start:])
        else: path.write_bytes(whole[:start] + flipped(whole[start:], draw))
        with watched(folder, seconds=60): reason = opened(path)
        said[kind, next((w for w in ('digest', 'cut off', 'is expected', 'only the number', 'convolution', 'no tensor')
                         if w in str(reason)), 'opened' if reason is None else 'schema')] += 1
        path.unlink()
    return said


def test_fuzz(packed, tmp_path):
    said = _fuzz(packed, tmp_path, 120, 0)
    assert {what for _, what in said} >= {'digest', 'cut off', 'schema', 'only the number'}, said


@pytest.mark.slow
def test_fuzz_of_2000(packed, tmp_path):
    said = _fuzz(packed, tmp_path, 2000, 1)
    print(said)
    assert {what for _, what in said} >= {'digest', 'cut off', 'is expected', 'schema', 'only the number'}, said
