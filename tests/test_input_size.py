"What size a network is given, and inputs that are no squares: height stays height, width stays width."
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from torch import nn

from yolov10_qat.deploy.detectors import _input_of
from yolov10_qat.deploy.onnx_file import _export_plain, _trace


class Sums(nn.Module):
    "Tells rows from columns: sums over each, of every pixel a weight of its own."
    def __init__(self):
        super().__init__()
        self.network = SimpleNamespace(model=[SimpleNamespace(dynamic=False)])
        self.conv = nn.Conv2d(3, 1, (1, 3), stride=(1, 2))

    def forward(self, images_n3hw):
        found = self.conv(images_n3hw)
        return found.sum(2), found


@pytest.fixture(scope='module')
def free():
    torch.manual_seed(0)
    network = Sums()
    return network, _trace(network, 8, 17, True, _export_plain)


def test_the_sides_of_a_free_input_are_called_what_they_are(free):
    assert [d.dim_param or d.dim_value for d in free[1].graph.input[0].type.tensor_type.shape.dim] == ['batch', 3, 'height', 'width']


@pytest.mark.parametrize('height, width', [(8, 8), (4, 12), (12, 4)])
def test_an_input_that_is_no_square(free, height, width):
    network, model = free
    images = torch.rand(2, 3, height, width)
    found, = onnxruntime.InferenceSession(model.SerializeToString()).run(['output0'], {'images': images.numpy()})
    with torch.no_grad(): expected = network(images)[0]
    assert found.shape == (2, 1, (width-1)//2)
    torch.testing.assert_close(torch.from_numpy(found), expected)


SIZES = [  # insisted on, trained at, asked for -> side, words
    (None, 160, None, 160, '160 pixels, as it was trained; as narrow as the images allow'),
    (None, 160, 96, 96, '96 pixels; as narrow as the images allow'),
    (None, None, None, 640, '640 pixels: the file does not say what it was trained at; as narrow as the images allow'),
    (None, None, 96, 96, '96 pixels; as narrow as the images allow'),
    (160, 160, None, 160, 'squares of 160 pixels'),
    (160, 320, None, 160, 'squares of 160 pixels'),
    (160, 160, 96, 96, 'squares of 96 pixels')]  # which `evaluate` refuses

@pytest.mark.parametrize('own, trained, asked, side, words', SIZES)
def test_which_size_it_is(own, trained, asked, side, words):
    assert _input_of(SimpleNamespace(imgsz=own), trained, asked) == (side, words)
