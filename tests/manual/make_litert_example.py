"""Write tests/examples/litert-float.tflite: `PYTHONPATH=.:tests python tests/manual/make_litert_example.py`.

Needs litert-torch 0.10.0, so an environment of its own: see nbs/60_deploy/12_litert_file.ipynb."""
import litert_torch
import torch

from litert_example import FLOATS, SIDE, Network

litert_torch.convert(Network().eval(), (torch.zeros(1, 3, SIDE, SIDE),)).export(str(FLOATS))
print(FLOATS, FLOATS.stat().st_size, 'bytes')
