import numpy as np
import pytest
import torch

from tagseg.errors import BadInput
from tagseg.masks.permutohedral import CHUNK, Lattice
from tagseg.masks.permutohedral_torch import TorchLattice


def points(count: int, dimensions: int, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(0).random((count, dimensions)) * spread).astype(np.float32)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_it_is_nearly_the_gaussian_filter(dimensions: int):
    features, values = points(700, dimensions), np.random.default_rng(1).random((700, 3)).astype(np.float32)
    kernel = np.exp(-((features[:, None] - features[None]) ** 2).sum(axis=-1) / 2)
    found, wanted = Lattice(features).filter(values), kernel @ values
    found, wanted = found / Lattice(features).filter(np.ones((700, 1), np.float32)), wanted / kernel.sum(1)[:, None]
    assert np.abs(found - wanted).max() < 0.1
    assert np.abs(found - wanted).mean() < 0.02


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 8, 13])
def test_builds_agree_for_any_number_of_channels(channels: int):
    features = points(2 * CHUNK + 77, 5, spread=8)
    values = np.random.default_rng(1).random((len(features), channels)).astype(np.float32)
    everywhere = Lattice(features).filter(values)
    np.testing.assert_allclose(Lattice(features, threads=1).filter(values), everywhere, rtol=1e-4)
    in_torch = TorchLattice(torch.from_numpy(features)).filter(torch.from_numpy(values))
    np.testing.assert_allclose(in_torch.numpy(), everywhere, rtol=1e-3)


def test_the_filter_is_symmetric_and_normalises():
    features, size = points(500, 5), 500
    lattice = Lattice(features)
    one, other = np.random.default_rng(2).random((2, size, 1)).astype(np.float32)
    assert np.dot(one[:, 0], lattice.filter(other)[:, 0]) == pytest.approx(
        np.dot(lattice.filter(one)[:, 0], other[:, 0]), rel=1e-2
    )
    ones = lattice.normalise()
    assert ones.mean() == pytest.approx(1, abs=0.1)


def test_features_beyond_the_lattice_are_refused():
    with pytest.raises(BadInput, match="standard deviations"):
        Lattice(np.full((3, 5), 1e6, np.float32))
    with pytest.raises(BadInput, match="finite"):
        Lattice(np.full((3, 5), np.nan, np.float32))
