"What a checkpoint says of itself without torch is what torch reads, and no pickle gets further than being refused."
import os
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from yolov10_qat.checkpoint.format import (
    CheckpointError,
    TensorOutline,
    average_bits,
    deployed,
    describe_checkpoint,
    read_outline,
)
from yolov10_qat.checkpoint.store import load_checkpoint, random_model
from yolov10_qat.quant.layers import plan

EXAMPLE = Path(__file__).parent/'examples'/'checkpoint-v1.pt'


def rewritten(path, pickled):
    "The example with another `data.pkl`; its checksums are right."
    with zipfile.ZipFile(EXAMPLE) as old, zipfile.ZipFile(path, 'w') as new:
        for name in old.namelist(): new.writestr(name, pickled if name.endswith('/data.pkl') else old.read(name))
    return path


def pickled_example():
    with zipfile.ZipFile(EXAMPLE) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith('/data.pkl')))


def outline(value):
    "Tensors to shapes, as deep as they lie."
    if isinstance(value, (torch.Tensor, TensorOutline)): return 'tensor', tuple(value.shape)
    if isinstance(value, dict): return {k: outline(v) for k, v in value.items()}
    return type(value)(map(outline, value)) if type(value) in (list, tuple) else value


def test_torch_reads_the_same():
    assert outline(read_outline(EXAMPLE)) == outline(torch.load(EXAMPLE, weights_only=True))
    facts = describe_checkpoint(EXAMPLE)
    assert facts['parameters'] == sum(
        t.numel() for k, t in load_checkpoint(EXAMPLE)['model_state_dict'].items() if k.endswith(('.weight', '.bias')))


def test_what_is_deployed_of_the_real_model():
    model = random_model('yolo10n', ['red', 'green'], seed=0)
    manifest = plan(model)
    both = [{e['name'] for e in manifest} - {e['name'] for e in deployed(manifest, head)}
            for head in ('one2one', 'one2many')]
    # three scales, three convolutions for boxes and five for classes
    assert [len(names) for names in both] == [3*(3 + 5)]*2
    assert all(n.startswith(('model.23.cv2', 'model.23.cv3'))
               for n in both[0]) and both[1] == {n.replace('.cv', '.one2one_cv') for n in both[0]}
    assert 4 < average_bits(manifest) < 4.001 < average_bits(plan(model, first_last_bits=8)) < 8


def text(word): return b'X' + struct.pack('<I', len(word)) + word

RUN = text(b'touch owned') + b'\x85R.'  # ('touch owned',) and a call
HOSTILE = {
    'call':               b'\x80\x02cos\nsystem\n' + RUN,
    'call by its builtin': b'\x80\x02cbuiltins\neval\n' + RUN,
    'instance':           b'\x80\x02(' + text(b'touch owned') + b'ios\nsystem\n.',
    'object':             b'\x80\x02(cos\nsystem\n' + text(b'touch owned') + b'o.',
    'new object':         b'\x80\x02csubprocess\nPopen\n' + text(b'touch owned') + b'\x85\x81.',
    'later protocol':     b'\x80\x04\x8c\x02os\x8c\x06system\x93' + RUN,
    'extension':          b'\x80\x02\x82\x01' + RUN,
    'through a module':   b'\x80\x02ctorch\nserialization.os.system\n' + RUN,
    'attribute of ours':  b'\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.',
    'call of a storage':  b'\x80\x02ctorch\nFloatStorage\n' + RUN,
    'gigabytes of memo':  b'\x80\x02Nr' + struct.pack('<I', 2**32-1) + b'.',
    'gigabytes at once':  b'\x80\x02\x96' + struct.pack('<Q', 2**40) + b'.',
    'nothing':            b'',
}

@pytest.mark.parametrize('case', HOSTILE)
def test_hostile_pickle(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError,
                       match='no format_version' if case == 'gigabytes of memo'
                       else 'contains pickled objects and was not opened'):
        read_outline(rewritten(tmp_path/'x.pt', HOSTILE[case]))
    assert os.listdir(tmp_path) == ['x.pt']


def test_spoilt_pickle(tmp_path):
    "Bytes changed, lost or added at random: it is read, or refused in a sentence."
    draw, whole, refused = random.Random(0), pickled_example(), 0
    for _ in range(400):
        spoilt, at = bytearray(whole), draw.randrange(len(whole))
        spoilt[at:at+draw.randrange(3)] = bytes(
            draw.choices(b'R}b.oic)(tu0123qhjrX\x81\x93\x96\x85N\xff', k=draw.randrange(4)))
        try: read_outline(rewritten(tmp_path/'x.pt', bytes(spoilt)))
        except CheckpointError: refused += 1
    assert 200 < refused < 400
