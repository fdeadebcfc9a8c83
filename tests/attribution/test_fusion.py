import pytest
import torch

from tagseg.attribution.fusion import fuse, normalise, scale
from tagseg.errors import BadInput


def test_normalising_and_the_published_scaling():
    maps = torch.tensor([[[[-1.0, 0.0], [1.0, 4.0]]]])
    assert normalise(maps).flatten().tolist() == [0, 0, 0.25, 1]
    assert torch.allclose(scale(maps, "tanh"), torch.tanh(2 * maps.clamp_min(0) / 4))
    assert torch.allclose(scale(maps, "sqrt"), 2 * (maps.clamp_min(0) / 4).sqrt())
    assert torch.allclose(scale(maps, "tan"), torch.tan(maps.clamp_min(0) / 4))
    with pytest.raises(BadInput, match="choose one of"):
        scale(maps, "cos")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_maps_without_evidence_stay_zero(value: float):
    maps = torch.full((1, 2, 3, 3), value)
    assert (fuse([maps, maps], (6, 6)) == 0).all()


def test_the_deepest_layer_is_not_scaled_unless_asked_for():
    shallow, deep = torch.tensor([[[[1.0, 0.2]]]]), torch.tensor([[[[0.5, 1.0]]]])
    assert torch.allclose(fuse([shallow, deep], (1, 2)), torch.tensor([[[[0.96402758, 1.0]]]]))
    both = torch.tanh(torch.tensor([2.0, 1.0]))
    expected = torch.maximum(both, torch.tanh(torch.tensor([0.4, 2.0])))
    assert torch.allclose(fuse([shallow, deep], (1, 2), scaled=[0, 1])[0, 0, 0], expected / expected.max())
    with pytest.raises(BadInput, match="at least one layer"):
        fuse([], (1, 2))
