from pathlib import Path

import numpy as np
import pytest
import torch

import tagseg
from tagseg.errors import BadInput
from tagseg.masks.graph import (
    adjacency_of,
    complete,
    first_weights,
    label_gradient,
    laplacian_of,
    sure_labels,
    taught,
)
from tagseg.masks.refinements.gcn import GraphSettings, refine, refine_maps
from tagseg.networks.settings import EncoderSettings
from tests.conftest import TINY


@pytest.fixture(scope="module")
def halves() -> tuple[np.ndarray, np.ndarray]:
    """Features of two kinds, left and right, with a little noise, and a map that is strong in a corner on the left."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(16, 8, 10)).astype(np.float32) * 0.3
    features[0, :, :5] += 2
    features[1, :, 5:] += 2
    maps = np.zeros((1, 8, 10), np.float32)
    maps[0, :, :5] = 0.35
    maps[0, :4, :3] = np.linspace(0.6, 1.0, 12).reshape(4, 3)
    return features, maps


def test_what_is_sure_is_completed_by_what_looks_alike(halves: tuple[np.ndarray, np.ndarray]):
    features, maps = halves
    found = refine_maps(features, maps)
    assert found.shape == maps.shape
    assert found[0, :, :5].min() > 0.5
    assert found[0, :, 5:].max() < 0.5
    np.testing.assert_array_equal(found, refine_maps(features, maps))
    assert maps.max() == 1.0


def test_scores_with_a_background(halves: tuple[np.ndarray, np.ndarray]):
    features, maps = halves
    scores = np.concatenate([np.full_like(maps, 0.3), maps])
    found = refine(features, np.repeat(np.repeat(scores, 4, axis=1), 4, axis=2))
    assert found.shape == (2, 32, 40)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


def test_the_surest_share_of_what_a_label_wins():
    scores = np.array([[0.5, 0.5, 0.5, 0.5, 0.9, 0.8], [0.6, 0.7, 0.8, 0.9, 0.1, 0.1]])
    np.testing.assert_array_equal(sure_labels(scores, 0.5), [255, 255, 1, 1, 0, 255])
    np.testing.assert_array_equal(sure_labels(scores, 1.0), [1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(sure_labels(np.ones((2, 3)), 0.1), [255, 255, 255])  # nothing is known


def test_one_label_and_none():
    features = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    training = GraphSettings(sure=1.0, steps=3)
    everything = complete(features, np.stack([np.zeros((3, 3)), np.ones((3, 3))]), training)
    assert np.isfinite(everything).all()
    nothing = label_gradient(torch.full((3,), 255), 2)
    assert not nothing.any()
    torch.testing.assert_close(
        label_gradient(torch.tensor([0, 0, 1, 255]), 2),
        torch.tensor([[-0.5, 0], [-0.5, 0], [0, -1], [0, 0]]),
    )
    assert GraphSettings().entropy == pytest.approx(10 / 21, abs=1e-3)


def test_gradients_are_those_of_torch():
    """Of dropout too, which the reference leaves out."""
    torch.manual_seed(0)
    features, adjacency = torch.randn(12, 5), adjacency_of(torch.rand(12, 12))
    labels = torch.tensor([0, 0, 1, 2, 2, *[255] * 7])
    laplacian = laplacian_of(torch.nn.functional.normalize(features, dim=1), (3, 4))
    training = GraphSettings(hidden=6, steps=4)
    generator = torch.Generator().manual_seed(0)
    weights = [w.requires_grad_() for w in first_weights(5, 6, 3, generator)]
    optimiser = torch.optim.Adam(weights, lr=training.learning_rate, weight_decay=training.weight_decay)

    def said(kept: torch.Tensor | float) -> torch.Tensor:
        inner = (adjacency @ features @ weights[0] + weights[1]).relu() * kept
        return (adjacency @ inner @ weights[2] + weights[3]).log_softmax(dim=1)

    for _ in range(4):
        kept = (torch.rand(12, 6, generator=generator) < 0.7) / 0.7
        found = said(kept)
        loss = torch.nn.functional.nll_loss(found[:2], labels[:2]) + torch.nn.functional.nll_loss(
            found[2:5], labels[2:5]
        )
        loss = loss - training.entropy * (found[5:].exp() * found[5:]).sum(dim=1).mean()
        loss = loss + training.smooth * torch.trace(found.T @ laplacian @ found) / 12
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(taught(features, adjacency, labels, laplacian, 3, training), said(1.0).exp())


def test_too_many_cells_are_told_before_anything_is_made(tiny_set: Path, tmp_path: Path):
    settings = {**TINY, "encoder.name": "test_vit", "encoder.weights": "random", "encoder.side": 1040}
    words = "encoder.side 1040: gcn takes photographs of 4096 cells at most.*set encoder.side=1024 or less"
    with pytest.raises(BadInput, match=words):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings={**settings, "masks.refine": "gcn+par"})
    assert not (tmp_path / "run" / "train").exists()
    encoder = EncoderSettings(name="test_vit", weights="random", side=1040)
    with pytest.raises(BadInput, match=words):
        tagseg.refine(
            tiny_set / "images", tiny_set / "masks", out=tmp_path / "out", refine="gcn", encoder=encoder, quiet=True
        )
    with pytest.raises(BadInput, match=words):
        tagseg.compare(tiny_set, tmp_path / "compared", ["cam"], refine=["gcn"], settings=settings)


def test_too_many_cells():
    with pytest.raises(BadInput, match=r"65 x 64 cells are too many.*set a smaller encoder.side"):
        refine_maps(np.zeros((2, 65, 64), np.float32), np.zeros((1, 65, 64), np.float32))
