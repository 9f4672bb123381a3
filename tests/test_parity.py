"An exported file is kept if it is the same model: each limit alone refuses, and a refused file costs a run nothing."
from types import SimpleNamespace

import pytest
import torch

from yolov10_qat.checkpoint.format import CheckpointError
from yolov10_qat.deploy import export as exporting
from yolov10_qat.deploy import parity as comparing


def compared(monkeypatch, boxes=0., scores=0., ap=0.):
    "A file whose raw output and AP are off by so much: boxes range over 100 pixels, scores over 1."
    expected = torch.zeros(1, 6, 2)
    expected[:, :4, 1], expected[:, 4:, 1] = 100, 1
    found = expected.clone()
    found[0, 0, 0] += boxes*100
    found[0, 4, 0] += scores
    def scored(value): return {'one2one': SimpleNamespace(images=8, pycocotools={'AP': value})}
    reference = SimpleNamespace(raw=lambda output: expected, images=torch.zeros(1, 3, 32, 32), scores=scored(.5),
                                score=lambda detector, label: scored(.5 + ap))
    monkeypatch.setattr(comparing, 'open_detector', lambda path: object())
    monkeypatch.setattr(comparing, '_raw_of', lambda detector, output, images: found)
    return comparing.parity('a.onnx', 'one2one', reference)[0]


@pytest.mark.parametrize('what', ['boxes', 'scores', 'ap'])
def test_each_limit_alone(monkeypatch, what):
    "Just below, all pass; just above, this one alone refuses, and its name is said."
    for sign in (1, -1): compared(monkeypatch, **{what: sign*.0009})
    for sign in (1, -1):
        with pytest.raises(CheckpointError, match=f"its {what.replace('ap', 'AP')} differ by 0.0011"):
            compared(monkeypatch, **{what: sign*.0011})


def test_no_number_is_no_match(monkeypatch):
    with pytest.raises(CheckpointError, match='its scores differ by nan'): compared(monkeypatch, scores=float('nan'))


def test_flat_scores():
    "A range of 3e-5 counts as a hundredth: noise of float32 passes, what could be seen does not."
    flat = torch.zeros(1, 6, 2)
    flat[:, 4:, 1] = 3e-5
    def off(by):
        found = flat.clone()
        found[0, 4, 0] += by
        return comparing.raw_difference(flat, found)[1]
    assert off(1.2e-7) < comparing.RAW_TOLERANCE < off(1.1e-5) and off(.9e-5) < comparing.RAW_TOLERANCE


@pytest.mark.parametrize('fault', [CheckpointError('not the\nmodel'), RuntimeError('inside onnxruntime')])
def test_a_refused_file_is_told(monkeypatch, tmp_path, fault):
    "The others are written; a full disk still ends the run."
    found = SimpleNamespace(model=None, manifest=[], turned=lambda head: None)
    def export(deployed, path, reference, *how, output='packed'):
        if output == 'one2one': raise fault
        return path.name, None
    monkeypatch.setattr(exporting, 'deployment', lambda checkpoint: found)
    monkeypatch.setattr(exporting, 'Reference', lambda *a: None)
    monkeypatch.setattr(exporting, 'check_dialect', lambda *a: 21)
    monkeypatch.setattr(exporting, 'export', export)
    files, refused = exporting.export_all('x.pt', tmp_path, 'n-w4', None, 64)
    assert [name for name, _ in files] == ['n-w4.safetensors', 'n-w4-one2many.onnx']
    assert [x.path for x in refused] == [str(tmp_path/'n-w4-one2one.onnx')]
    assert '\n' not in refused[0].why and str(fault)[:7] in refused[0].why
    fault = OSError(28, 'No space left on device')
    with pytest.raises(OSError): exporting.export_all('x.pt', tmp_path, 'n-w4', None, 64)
