import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.attribution import LayerCAM
from tagseg.attribution.winograd import FastConvolutions, _gains, convolution, transformed


def last(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (7, 10), (33, 18)])
@pytest.mark.parametrize(("inputs", "outputs"), [(32, 64), (96, 32)])
def test_equal_to_the_direct_convolution(size: tuple[int, int], inputs: int, outputs: int):
    image, weight, bias = torch.randn(2, inputs, *size), torch.randn(outputs, inputs, 3, 3), torch.randn(outputs)
    expected = F.conv2d(image.double(), weight.double(), bias.double(), padding=1)
    found = convolution(last(image), transformed(weight).transpose(1, 2), bias)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    back = torch.ops.aten.convolution_backward(
        expected, image.double(), weight.double(), [0], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
    )[0]
    found = convolution(last(expected.float()), transformed(weight, flip=True))
    assert (found - back).abs().max() < 1e-5 * back.abs().max()


def test_gradients_of_a_network_inside():
    network = nn.Sequential(
        nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(96, 128, 3, padding=1, bias=False)
    ).requires_grad_(False)
    image = last(torch.randn(2, 96, 48, 52)).requires_grad_()
    expected = network(image)
    (slope,) = torch.autograd.grad(expected.square().sum(), image)
    with FastConvolutions():
        found = network(image)
    assert type(found.grad_fn).__name__ == "_ConvolutionBackward"
    (fast,) = torch.autograd.grad(found.square().sum(), image)
    assert (found - expected).abs().max() < 2e-5 * expected.abs().max()
    assert (fast - slope).norm() < 1e-3 * slope.norm()


@pytest.mark.parametrize(
    "options", [{"stride": 2, "padding": 1}, {"padding": 0}, {"padding": 2, "dilation": 2}, {"padding": "same"}]
)
def test_other_convolutions_stay_as_they_are(options: dict):
    image, weight = last(torch.randn(2, 96, 48, 52)), torch.randn(96, 96, 3, 3)
    assert _gains(image, weight, padding=1)
    assert not _gains(image, weight, **options)
    assert not _gains(image[:, :, :16, :16], weight, padding=1)
    assert not _gains(image.double(), weight.double(), padding=1)
    assert not _gains(image.contiguous(), weight, padding=1)
    assert not _gains(image, weight.clone().requires_grad_(), padding=1)
    with FastConvolutions():
        assert torch.equal(F.conv2d(image, weight, **options), F.conv2d(image, weight, **options))


def test_maps_are_those_of_the_direct_convolutions(monkeypatch: pytest.MonkeyPatch):
    model = nn.Sequential(
        nn.Conv2d(3, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 5),
    )  # fmt: skip
    images = torch.randn(2, 3, 48, 52)
    found = LayerCAM(model, "1").layer_maps(images, [0, 3])[0]
    monkeypatch.setattr("tagseg.attribution.winograd._gains", lambda *_, **__: False)
    expected = LayerCAM(model, "1").layer_maps(images, [0, 3])[0]
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_torch_keeps_its_threads():
    """In a process of its own: numba starts its threads once."""
    code = """
import torch
torch.set_num_threads(1)
from tagseg.attribution.winograd import convolution, transformed
image = torch.randn(1, 64, 16, 16).contiguous(memory_format=torch.channels_last)
convolution(image, transformed(torch.randn(64, 64, 3, 3)).transpose(1, 2))
print(torch.get_num_threads())
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "1\n"
