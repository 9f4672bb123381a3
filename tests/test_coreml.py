"A Core ML package: the AP of its checkpoint, integers bit for bit, the right box for each score; from a stranger, one line; without the extra, how to get it."
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from google.protobuf.message import DecodeError

from conftest import command
from hostile import flipped, watched
from test_export import checkpoint, folder, scenes  # noqa: F401
from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.checkpoint.store import load_checkpoint, save_checkpoint
from yolov10_qat.core.files import content_sha256
from yolov10_qat.deploy import coreml_file, targets
from yolov10_qat.deploy.coreml_file import (
    COREML_KEY,
    DIGEST_KEY,
    FILES,
    MANIFEST,
    Package,
    _package,
    best,
    coreml_digest,
    package_layers,
    read_coreml,
    save_coreml,
)
from yolov10_qat.deploy.export import export, export_checkpoint
from yolov10_qat.deploy.network import deployment
from yolov10_qat.deploy.parity import Reference, check_package
from yolov10_qat.evaluate.heads import validation_view


@pytest.fixture(scope='module')
def made(folder, scenes, checkpoint):  # noqa: F811
    "A package of the demo's network at 160 pixels, and what was measured."
    found = deployment(checkpoint)
    reference = Reference(found.model, validation_view(scenes, folder/'view-coreml', found.facts['names'], 'demo'), 160)
    return export(found, folder/'demo.mlpackage', reference, 'coreml')[0]


@pytest.fixture(scope='module')
def path(made): return Path(made.path)


def test_what_is_recorded(made, path):
    p, s = made.parity, made.sizes
    assert p.runtime == 'torch (not executed on a device)' and p.ap > .1 and abs(p.ap - p.ap_torch) < .05
    assert 1e-6 < max(p.raw_boxes, p.raw_scores) < .03 and made.latency is None  # FP16 is not FP32
    assert s.file == sum((path/name).stat().st_size for name in FILES) == s.codes+s.scales+s.floats+s.structure
    assert made.sha256 == content_sha256(path) and s.fp16_file > 3*s.file and s.fp32_file > 1.8*s.fp16_file


def test_weights_and_boxes(path, checkpoint):  # noqa: F811
    "Codes equal the checkpoint's; each of the 300 rows has the box of its own anchor, by the program and by torch."
    found, (facts, program) = deployment(checkpoint), read_coreml(path)
    layers = package_layers(program, facts['layers'])
    assert sum(torch.equal(a.codes_oihw, b.codes_oihw) for a, b in zip(found.layers, layers) if a.codes_oihw is not None) == 83
    assert {e['bits'] for e in facts['layers']} == {4, 8, None} and facts['self_check'][4:] != [0]*len(facts['names'])
    rows, raw = program.run(torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0)), half=False)
    torch.testing.assert_close(rows, best(raw), rtol=0, atol=0)
    assert rows[0, :, :4].unique(dim=0).shape[0] > 50


def test_shell(folder, scenes, checkpoint):  # noqa: F811
    "Exported and scored by commands; the line says that no device ran it."
    out = folder/'raw.mlpackage'
    done = command('export', checkpoint, '--out', out, '--format', 'coreml', '--head', 'raw', '--imgsz', 96, '--coco-root', scenes)
    assert done.returncode == 0 and 'by torch (not executed on a device)' in done.stdout, done.stderr
    assert f"{sum((out/name).stat().st_size for name in FILES):,} bytes" in done.stdout and 'bit for bit' in done.stdout
    assert 'Converting' not in done.stderr and '_MLModelProxy' not in done.stderr
    scored = command('eval', out, '--coco-root', scenes)
    assert scored.returncode == 0 and 'squares of 96 pixels' in scored.stdout, scored.stderr
    assert scored.stdout.split('AP ')[1][:6] in done.stdout
    other = command('eval', out, '--coco-root', scenes, '--imgsz', 160)
    assert other.returncode == 1 and 'takes 96 x 96 pixels, not 160' in other.stderr


def test_refused(folder, scenes, checkpoint, monkeypatch):  # noqa: F811
    "One line each, before anything is converted; nothing is left behind."
    content = load_checkpoint(checkpoint)
    save_checkpoint(folder/'three.pt', content | dict(manifest=[e | dict(bits=3) if e['bits'] == 4 else e for e in content['manifest']]))
    def ask(piece, name='demo.pt', out='x.mlpackage', **how):
        with pytest.raises(ValueError, match=piece) as error:
            export_checkpoint(folder/name, folder/out, 'coreml', coco_root=scenes, **how)
        assert len(str(error.value).splitlines()) == 1 and not (folder/out).exists()
    ask('stores weights of 4 and 8 bits, model.1.conv has 3', 'three.pt')
    ask('--imgsz 2080: a Core ML package has one input size', imgsz=2080)
    ask('use one2one or raw', output='one2many')
    ask('has one input size', dynamic=True)
    ask('must end in .mlpackage', out='x.mlmodel')
    monkeypatch.setattr(targets, 'find_spec', lambda name: None)
    ask("pip install 'yolov10-qat\\[coreml\\]'")


def test_other_weights(path, folder, checkpoint):  # noqa: F811
    "The checkpoint of another network is not in the package."
    found = deployment(checkpoint)
    next(x for x in found.layers if x.codes_oihw is not None).codes_oihw[0, 0, 0, 0] ^= 1
    with pytest.raises(CheckpointError, match='its integers are not'): check_package(path, found, torch.zeros(1, 3, 160, 160))


def test_a_box_of_another_anchor(folder, checkpoint, monkeypatch):  # noqa: F811
    "What the converter makes of a division of whole numbers: a reciprocal in FP16, and the box of the anchor before."
    def divided(raw):
        boxes, scores = raw.permute(0, 2, 1).split((4, raw.shape[1]-4), 2)
        classes = scores.shape[2]
        top, at = scores.reshape(-1, scores.shape[1]*classes).topk(300, 1)
        kind = at.remainder(classes)
        row = ((at - kind)/classes).to(torch.int32).long()
        return torch.cat([boxes.gather(1, row.unsqueeze(2).repeat(1, 1, 4)), top.unsqueeze(2), kind.unsqueeze(2).float()], 2)
    found = deployment(checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(coreml_file, 'best', divided)
        package = coreml_file.describe_coreml(coreml_file.coreml_model(found, 'one2one', 160), found, 'one2one', 160)
    with pytest.raises(CheckpointError, match='gives other detections'):
        check_package(save_coreml(package, folder/'wrong.mlpackage'), found, torch.rand(1, 3, 160, 160))


# From a stranger

def stranger(path, where, change, honest=True):
    "A package with one thing changed, and a digest that fits."
    package = _package(path)
    spec, weights = type(package.spec)(), bytearray(package.weights)
    spec.CopyFrom(package.spec)
    block, = spec.mlProgram.functions['main'].block_specializations.values()
    change(spec, block, weights)
    made = Package(spec, bytes(weights))
    if honest: spec.description.metadata.userDefined[DIGEST_KEY] = coreml_digest(made)
    return save_coreml(made, where)

def reason(path):
    with pytest.raises((CheckpointError, FileNotFoundError)) as error: read_coreml(path)
    assert len(str(error.value).splitlines()) == 1 and str(path) in str(error.value)
    return str(error.value)

def first(block, kind): return next(op for op in block.operations if op.type == kind)
def weight(block): return first(block, 'constexpr_blockwise_shift_scale').inputs['data'].arguments[0].value
def elsewhere(spec, block, weights): weight(block).blobFileValue.fileName = '@model_path/../../etc/passwd'
def behind(spec, block, weights): weight(block).blobFileValue.offset = 1 << 60
def beside(spec, block, weights): weight(block).blobFileValue.offset += 64
def longer(spec, block, weights): weight(block).type.tensorType.dimensions[0].constant.size = 1 << 40
def unknown(spec, block, weights): first(block, 'silu').type = 'custom_layer'
def nested(spec, block, weights): first(block, 'silu').blocks.add()
def two(spec, block, weights): spec.mlProgram.functions['other'].CopyFrom(spec.mlProgram.functions['main'])
def kind(spec, block, weights): spec.neuralNetwork.SetInParent()
def absent(spec, block, weights): first(block, 'silu').inputs['x'].arguments[0].name = 'nowhere'
def endless(spec, block, weights):
    name = first(block, 'tile').inputs['reps'].arguments[0].name
    op = next(op for op in block.operations if op.type == 'const' and op.outputs[0].name == name)
    op.attributes['val'].immediateValue.tensor.ints.values[:] = [1 << 30, 1 << 30, 1]
def shape(spec, block, weights): first(block, 'conv').outputs[0].type.tensorType.dimensions[2].constant.size = 81
def header(**change):
    def edit(spec, block, weights):
        said = spec.description.metadata.userDefined
        said[COREML_KEY] = json.dumps(json.loads(said[COREML_KEY]) | change)
    return edit
def renamed(spec, block, weights):
    text = spec.description.metadata.userDefined[COREML_KEY]
    spec.description.metadata.userDefined[COREML_KEY] = text.replace('model.0.conv', 'model.99.conv')

@pytest.mark.parametrize('change, words', [
    (elsewhere, 'keeps numbers in another file'), (behind, 'behind the end of its weights'), (beside, 'something else is there'),
    (longer, 'value of the shape'), (unknown, 'has the operation custom_layer'), (nested, 'has the operation silu'),
    (two, 'should have one program'), (kind, 'should have one program'), (absent, 'cannot be run'), (endless, 'package of ours'),
    (shape, 'where [1, 16, 81, 80] is declared'), (renamed, 'has other layers than it says'), (header(imgsz=96), 'should take images of 96'),
    (header(imgsz='160'), 'imgsz'), (header(output='one2many'), 'output'), (header(names={'0': 'a'}), 'should take images'),
    (header(self_check=[1, 2]), 'self_check'), (header(more=1), 'more')])
def test_a_program_of_a_stranger(path, tmp_path, change, words):
    assert words in reason(stranger(path, tmp_path/'x.mlpackage', change))


def test_an_edit_is_noticed(path, tmp_path):
    def flip(spec, block, weights): weights[len(weights)//2] ^= 1
    assert 'its digest is wrong' in reason(stranger(path, tmp_path/'x.mlpackage', flip, honest=False))
    assert 'its digest is wrong' in reason(stranger(path, tmp_path/'y.mlpackage', header(epoch=7), honest=False))


def test_the_files_of_a_package(path, tmp_path):
    "Three files, no links, no other manifest, none too large."
    def package(name):
        shutil.copytree(path, tmp_path/name)
        return tmp_path/name
    odd = package('more.mlpackage')
    (odd/'Data'/'more.bin').write_bytes(b'')
    assert 'has other files' in reason(odd)
    link = package('link.mlpackage')
    (link/[*FILES][2]).unlink()
    (link/[*FILES][2]).symlink_to(path/[*FILES][2])
    assert 'has a link' in reason(link)
    cut = package('cut.mlpackage')
    (cut/[*FILES][1]).write_bytes((path/[*FILES][1]).read_bytes()[:-100])
    assert 'cut off' in reason(cut)
    other = package('other.mlpackage')
    (other/'Manifest.json').write_text(MANIFEST.replace('weights"', 'weights/../../.."'))
    assert 'is no Core ML package of this project' in reason(other)
    large = package('large.mlpackage')
    with open(large/[*FILES][1], 'r+b') as file: file.truncate((64 << 20) + 1)
    assert 'is larger than' in reason(large)
    assert 'no Core ML package' in reason(tmp_path/'absent.mlpackage')
    assert read_coreml(package('whole.mlpackage'))[0]['version'] == 1


def test_fuzz(path, tmp_path):
    "A bit of the model flipped, with a digest that fits: opened, or refused in one line; nothing else."
    package, draw, said = _package(path), random.Random(0), Counter()
    whole = package.spec.SerializeToString(deterministic=True)
    for i in range(60):
        spec = type(package.spec)()
        try: spec.ParseFromString(flipped(whole, draw, draw.choice([1, 1, 3])))
        except DecodeError: continue
        spec.description.metadata.userDefined[DIGEST_KEY] = coreml_digest(Package(spec, package.weights))
        where = save_coreml(Package(spec, package.weights), tmp_path/f'{i}.mlpackage')
        try:
            with watched(tmp_path, seconds=60): read_coreml(where)
            said['opened'] += 1
        except CheckpointError as e:
            assert len(str(e).splitlines()) == 1 and str(where) in str(e)
            said['refused'] += 1
    assert said['refused'] > 10, said
