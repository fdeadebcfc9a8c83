import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.grid import Grid
from tagseg.networks.pcm import PCM, pixel_correlation


def test_like_cells_share_their_maps_and_others_do_not():
    """Two kinds of cells, whose embeddings are at right angles."""
    embedding = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).view(1, 2, 2, 2)
    maps = torch.tensor([[1.0, 3, 10, 20]]).view(1, 1, 2, 2)
    found = pixel_correlation(maps, embedding).flatten()
    torch.testing.assert_close(found, torch.tensor([2.0, 2, 15, 15]), atol=1e-3, rtol=0)


def test_cells_that_point_apart_do_not_count():
    embedding = torch.tensor([[1.0, -1.0]]).view(1, 1, 1, 2)
    maps = torch.tensor([[4.0, 7.0]]).view(1, 1, 1, 2)
    torch.testing.assert_close(pixel_correlation(maps, embedding), maps, atol=1e-3, rtol=0)


def test_nothing_to_compare_is_zero_not_nan():
    embedding = torch.zeros(1, 3, 2, 2, requires_grad=True)
    found = pixel_correlation(torch.ones(1, 1, 2, 2), embedding)
    found.sum().backward()
    assert not found.any()
    assert torch.isfinite(embedding.grad).all()


def test_the_class_convolution_may_come_first():
    """Which is why maps flow here instead of features, in value and in gradient."""
    torch.manual_seed(0)
    features, embedding = torch.randn(2, 32, 5, 6), torch.randn(2, 8, 5, 6, requires_grad=True)
    convolution = nn.Conv2d(32, 3, 1, bias=False)
    late = convolution(pixel_correlation(features, embedding))
    (expected,) = torch.autograd.grad(late.square().sum(), embedding)
    early = pixel_correlation(convolution(features), embedding)
    (found,) = torch.autograd.grad(early.square().sum(), embedding)
    torch.testing.assert_close(early, late, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("widths", "embedding"), [((512, 1024), (192, 195)), ((512, 512), (128, 131))])
def test_published_layers(widths: tuple[int, int], embedding: tuple[int, int]):
    """ResNet-38, and VGG-16."""
    module = PCM(widths, Grid(8, corners=True))
    assert tuple(module.embedding.weight.shape) == (*embedding, 1, 1)
    assert not any(name.endswith("bias") for name, _ in module.named_parameters())


def test_what_is_learnt_does_not_reach_the_backbone_through_the_affinity():
    stages = [torch.randn(1, 4, 6, 6, requires_grad=True), torch.randn(1, 8, 3, 3, requires_grad=True)]
    maps = torch.randn(1, 2, 3, 3, requires_grad=True)
    module = PCM((4, 8), Grid(8, corners=True))
    F.mse_loss(module(maps, torch.randn(1, 3, 33, 33), stages), torch.zeros(1, 2, 3, 3)).backward()
    assert all(stage.grad is None for stage in stages)
    assert maps.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in module.parameters())
