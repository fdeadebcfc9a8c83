import pytest
import torch

from tagseg.networks.gpp import LEVELS, Gate, GatedPyramidPooling, agreement, pooled


@pytest.mark.parametrize("classes", [1, 3, 81])
@pytest.mark.parametrize("size", [(1, 1), (11, 7), (40, 40)])
def test_any_number_of_classes_and_any_grid(classes: int, size: tuple[int, int]):
    maps = torch.randn(2, classes, *size)
    pyramid = GatedPyramidPooling(classes)(maps)
    assert pyramid.shape == maps.shape
    assert torch.isfinite(pyramid).all()
    assert agreement(maps, pyramid).shape == (2, classes)


def test_a_level_has_the_means_of_its_tiles():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(pooled(maps, 4), maps)
    corners = pooled(maps, 2)[0, 0, [0, 0, 3, 3], [0, 3, 0, 3]]
    torch.testing.assert_close(corners, torch.tensor([2.5, 4.5, 10.5, 12.5]))


def test_a_gate_keeps_signs_apart():
    """With weights of 0 every gate is a half, so that a level counts by a quarter."""
    gate = Gate(2)
    for parameter in gate.parameters():
        torch.nn.init.zeros_(parameter)
    coarse, fine = torch.randn(1, 2, 5, 5), torch.randn(1, 2, 5, 5)
    torch.testing.assert_close(gate(coarse, fine), (coarse + fine) / 4)
    torch.nn.init.constant_(gate.positive.weight, 50.0)
    positive = (coarse.relu() + fine.relu()) / 2  # nearly, wherever anything is positive nearby
    negative = ((-coarse).relu() + (-fine).relu()) / 4
    torch.testing.assert_close(gate(coarse, fine), positive - negative, atol=1e-3, rtol=0)


def test_agreement_is_quadratic_and_signed():
    maps, pyramid = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(agreement(2 * maps, 2 * pyramid), 4 * agreement(maps, pyramid))
    torch.testing.assert_close(agreement(-maps, -pyramid), -agreement(maps, pyramid))
    assert not agreement(maps.abs(), -pyramid.abs()).any()


def test_one_gate_for_every_level_but_the_first():
    assert len(GatedPyramidPooling(20).gates) == len(LEVELS) - 1
    assert sum(p.numel() for p in GatedPyramidPooling(20).parameters()) == 6 * 2 * 40 * 9
