"""Read a packed file of yolov10-qat with numpy alone: `python read_packed.py FILE` lists its layers.

The format is described in nbs/60_deploy/03_packed.ipynb."""
import json
import sys

import numpy as np

DTYPES = {'U8': np.uint8, 'F32': np.float32}


def tensors(data):
    "Name -> array of a safetensors file, and its metadata."
    length = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8:8+length])
    metadata, body = header.pop('__metadata__'), data[8+length:]
    found = {}
    for name, t in header.items():
        start, end = t['data_offsets']
        found[name] = np.frombuffer(body[start:end], DTYPES[t['dtype']]).reshape(t['shape'])
    return found, metadata


def integers(stream, bits, shape):
    "A stream of two's complement integers, lowest bit first."
    count = int(np.prod(shape))
    lines = np.unpackbits(stream, bitorder='little')[:count*bits].reshape(count, bits).astype(np.int32)
    lines[:, -1] *= -1  # the highest bit counts negative
    return (lines << np.arange(bits)).sum(axis=1).reshape(shape)


def read(path):
    "Layer -> float32 weight (out, in/groups, height, width) and bias (out), or None."
    with open(path, 'rb') as file: found, metadata = tensors(file.read())
    layers = json.loads(metadata['yolov10_qat_packed'])['layers']
    def weight(name, shape, bits, group_size=None, **more):
        if bits is None: return found[f'{name}.weight']
        scale = found[f'{name}.scale']
        scale = scale.repeat(group_size, 1) if group_size else scale[:, None, None, None]
        return integers(found[f'{name}.codes'], bits, shape).astype(np.float32)*scale
    return {e['name']: (weight(**e), found.get(f"{e['name']}.bias")) for e in layers}


if __name__ == '__main__':
    for name, (w, _b) in read(sys.argv[1]).items():
        print(f'{name:40} {str(w.shape):20} {len(np.unique(w)):6} different weights')
