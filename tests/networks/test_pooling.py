"""Pooling of maps, of photographs only."""

import pytest
import torch

from tagseg.grid import Grid
from tagseg.networks.pooling import inside_cells, pooled


@pytest.mark.parametrize("kind", ["mean", "top", "lse"])
def test_padding_counts_for_nothing(kind: str):
    """What is padded is pooled as if it were cut off."""
    maps = torch.randn(2, 3, 5, 6)
    inside = torch.zeros(2, 5, 6)
    inside[0, 1:4, :5], inside[1] = 1, 1
    found = pooled(maps, kind, inside)  # type: ignore[arg-type]
    torch.testing.assert_close(found[:1], pooled(maps[:1, :, 1:4, :5], kind))  # type: ignore[arg-type]
    torch.testing.assert_close(found[1:], pooled(maps[1:], kind))  # type: ignore[arg-type]
    changed = maps.clone()
    changed[0, :, 4], changed[0, :, :, 5] = 100, -100
    torch.testing.assert_close(pooled(changed, kind, inside), found)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["mean", "top", "lse"])
def test_gradients_are_finite(kind: str):
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    inside = torch.zeros(2, 4, 4)
    inside[0, 0, 0] = 0.25
    pooled(maps, kind, inside).sum().backward()  # type: ignore[arg-type]
    assert torch.isfinite(maps.grad).all()
    assert (maps.grad[0, :, 0, 0] == 1).all()


def test_how_much_of_a_cell_is_photograph():
    boxes = torch.tensor([[0, 64, 0, 64], [16, 40, 0, 8]])
    found = inside_cells(boxes, Grid(16, corners=False), (64, 64))
    assert (found[0] == 1).all()
    assert found[1, :, 0].tolist() == [0, 0.5, 0.25, 0]
    assert not found[1, :, 1:].any()
    boxes = torch.tensor([[0, 65, 0, 65], [8, 40, 0, 16]])
    found = inside_cells(boxes, Grid(16, corners=True), (65, 65))
    assert (found[0] == 1).all()  # half a cell on the border is all that there is of it
    assert found[1, :, 0].tolist() == [0, 1, 1, 0, 0]
    assert found[1, 1, :2].tolist() == [1, 0.5]
