"The network of examples/litert-float.tflite: its layers, what it computes in torch, and a deployment around them."
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import conv2d, relu

from yolov10_qat.deploy.network import DeployedLayer, Deployment

FLOATS = Path(__file__).parent/'examples'/'litert-float.tflite'  # made by manual/make_litert_example.py
SIDE = 8
SHAPES = {'stem': ((8, 3, 3, 3), 4), 'depth': ((8, 1, 3, 3), 4), 'point': ((5, 8, 1, 1), 8), 'odd': ((3, 5, 1, 1), 3),
          'last': ((6, 3, 1, 1), None)}  # name -> shape, bits; `odd` has 15 integers, half a byte is left over


@cache
def layers():
    "As from `network.folded`; the same at each call."
    torch.manual_seed(0)
    return [_layer(name, *how) for name, how in SHAPES.items()]


def _layer(name, shape, bits):
    entry = dict(name=name, shape=list(shape), bits=bits, kept_why=None if bits else 'by name')
    bias = torch.randn(shape[0])/4
    if not bits: return DeployedLayer(entry, None, None, torch.randn(shape), bias)
    codes = torch.randint(-2**(bits-1), 2**(bits-1), shape, dtype=torch.int8)
    return DeployedLayer(entry, codes, torch.rand(shape[0])/2**bits + .01, None, bias)


class Network(nn.Module):
    "One 8 x 8 image -> boxes as xywh and 2 scores of 16 anchors, and the same as xyxy: `OneOutput` of `raw`."
    def __init__(self):
        super().__init__()
        for layer in layers():
            name = layer.entry['name']
            self.register_buffer(f'{name}_w', layer.weight)
            self.register_buffer(f'{name}_b', layer.bias_o)

    def part(self, x, name, **how): return conv2d(x, getattr(self, f'{name}_w'), getattr(self, f'{name}_b'), **how)

    def forward(self, images_n3hw):
        x = relu(self.part(images_n3hw, 'stem', stride=2, padding=1))
        x = relu(self.part(self.part(x, 'depth', padding=1, groups=8), 'point'))
        raw = self.part(self.part(x, 'odd'), 'last').flatten(2)
        return torch.cat([(raw[:, :2] + raw[:, 2:4])/2, raw[:, 2:4] - raw[:, :2], raw[:, 4:]], 1), raw


def tiny_deployment():
    "As much of a deployment as a file is described by."
    facts = dict(names={0: 'red', 1: 'green'}, epoch=1, weights='raw', source_sha256='0'*64, model_yaml={})
    return Deployment(list(layers()), 'one2one', SimpleNamespace(stride=torch.tensor([2.])), [], SIDE, facts)
