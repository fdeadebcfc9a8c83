import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tagseg.masks.random_walk import directions, sources
from tagseg.masks.refinements import LearntRefinement, refinements
from tagseg.methods.refinements import load_network
from tagseg.methods.refinements.base import affinity_losses, alpha_at, confident, mean_over, pairs
from tagseg.methods.refinements.irn import IRN, IRNSettings, displacement_losses, used_stages
from tagseg.methods.refinements.psa import PSA, PSASettings, feature_affinity, with_own_background


@dataclass
class Thresholds:
    low: float = 0.2
    middle: float = 0.4
    high: float = 0.6


def learnt(name: str) -> Any:
    found = refinements()[name]
    assert isinstance(found, LearntRefinement)
    return load_network(found)


def settings(name: str, **values: object) -> IRNSettings | PSASettings:
    """Small ones."""
    kind = {"irn": IRNSettings, "psa": PSASettings}[name]
    return kind.model_validate({"side": 97, "walk_side": 97, **values})


def test_pairs_by_hand():
    labels = torch.tensor([[[0, 0, 5], [5, 255, 5]]])
    background, objects, different = pairs(labels, 2)
    # one source: the middle of the upper row, next to right, lower left, below and lower right
    assert sources(2, 3, 2) == (slice(0, 1), slice(1, 2))
    assert directions(2) == ((0, 1), (1, -1), (1, 0), (1, 1))
    assert background.flatten().tolist() == [False, False, False, False]
    assert objects.flatten().tolist() == [False, False, False, False]
    assert different.flatten().tolist() == [True, True, False, True]
    background, objects, _ = pairs(torch.tensor([[[5, 5, 5], [0, 5, 3]]]), 2)
    assert objects.flatten().tolist() == [True, False, True, False]
    assert not background.any()


def test_affinity_losses_by_hand():
    affinity = torch.tensor([[[0.5], [0.25], [0.75]]])
    chosen = [torch.tensor([[[n == k] for n in range(3)]]) for k in range(3)]
    background, objects, different = affinity_losses(affinity, (chosen[0], chosen[1], chosen[2]))
    assert background.item() == pytest.approx(math.log(2), rel=1e-3)
    assert objects.item() == pytest.approx(math.log(4), rel=1e-3)
    assert different.item() == pytest.approx(math.log(4), rel=1e-3)


def test_displacements_that_point_to_one_centre_cost_nothing():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    displacement = torch.stack([2 - y, 5 - x])[None]  # every cell points to (2, 5)
    labelled = pairs(torch.ones(1, 6, 8, dtype=torch.long), 3)
    objects, background = displacement_losses(displacement, labelled, 3)
    assert objects.item() == pytest.approx(0, abs=1e-6)
    assert background == 0
    objects, background = displacement_losses(displacement, pairs(torch.zeros(1, 6, 8, dtype=torch.long), 3), 3)
    away = np.mean([(abs(dy) + abs(dx)) / 2 for dy, dx in directions(3)])
    assert objects == 0
    assert background.item() == pytest.approx(away, rel=1e-4)


def test_features_that_are_alike_belong_together():
    features = torch.zeros(1, 4, 5, 9)
    features[:, :2, :, 4:] = 1
    affinity = feature_affinity(features, 2)
    rows, columns = sources(5, 9, 2)
    right = affinity[0, directions(2).index((0, 1))].reshape(rows.stop, columns.stop - columns.start)
    assert right[0, 0] == 1
    assert right[0, 2].item() == pytest.approx(math.exp(-0.5))


def test_the_gradient_of_feature_affinities_is_the_true_one():
    features = torch.randn(2, 3, 5, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: feature_affinity(f, 3), (features,))


def test_an_empty_set_has_no_loss_and_no_gradient():
    values = torch.rand(1, 3, 4, requires_grad=True)
    loss = mean_over(values.log(), torch.zeros(1, 3, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert values.grad is not None
    assert (values.grad == 0).all()


def test_confident_labels():
    sure, possible = np.array([[0, 0, 1, 2]]), np.array([[0, 1, 1, 1]])
    assert confident(sure, possible, (3, 7)).tolist() == [[0, 255, 4, 8]]


def test_the_published_alphas_are_these_thresholds():
    assert alpha_at(0.276) == pytest.approx(4, rel=0.01)
    assert alpha_at(0.0751) == pytest.approx(32, rel=0.05)
    for threshold in (0.1, 0.5, 0.8):
        scores = with_own_background(np.full((1, 1, 1), threshold), alpha_at(threshold))
        assert scores[0, 0, 0] == pytest.approx(scores[1, 0, 0])


def test_the_stages_that_irn_uses():
    assert used_stages([2, 4, 8, 16, 16]) == [(0, 1), (1, 0), (2, 0), (3, 0), (4, 0)]  # ResNet, as published
    assert used_stages([1, 2, 4, 8, 16, 32]) == [(1, 1), (2, 0), (3, 0), (4, 0), (5, 0)]
    assert used_stages([4, 8, 16, 32]) == [(0, 0), (1, 0), (2, 0), (3, 0)]


CASES = [
    ("irn", "test_resnet", {}),
    ("irn", "test_resnet", {"displacement": True}),
    ("irn", "vit_tiny_patch16_224", {"output_stride": None, "radius": 3}),
    ("irn", "vgg11", {"output_stride": None}),
    ("psa", "test_resnet", {}),
    ("psa", "convnext_atto", {"output_stride": None}),
]


@pytest.mark.parametrize(("name", "backbone", "values"), CASES)
def test_they_learn_and_walk_at_any_size(name: str, backbone: str, values: dict[str, object]):
    s = settings(name, **values)
    module = learnt(name)(backbone, "random", s, 10)
    module.log = lambda *_: None
    side, _ = module.backbone.grid.fit(97, 97)
    mask = torch.zeros(2, side, side, dtype=torch.long)
    mask[:, 20:60, 20:60], mask[:, 60:70] = 4, 255
    loss = module.train().training_step({"image": torch.randn(2, 3, side, side), "mask": mask}, 0)
    loss.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)
    chosen = module.configure_optimizers()
    chosen["optimizer"].step()
    if values.get("displacement"):
        assert module.displacements(torch.randn(1, 3, side, side)).shape[1] == 2
    photo = np.random.default_rng(0).integers(0, 256, (83, 117, 3)).astype(np.uint8)
    maps = np.zeros((2, 83, 117), np.float32)
    maps[0, 10:30, 10:30], maps[1, 50:, 80:] = 1, 0.7
    walked = module.eval().walk(photo, maps, Thresholds())
    assert walked.shape[0] == 2
    assert 0 <= walked.min() <= walked.max() <= 1
    assert np.isfinite(walked).all()


def test_a_constant_background_walks_along_instead_of_a_power():
    """Without links a walk stays where it is, and a map's share is beside what walks along."""
    maps = np.zeros((2, 96, 96), np.float32)
    maps[0, :48], maps[1, 48:] = 1.0, 0.5
    photo = np.zeros((96, 96, 3), np.uint8)
    shares = {}
    for constant in (0.39, None):
        torch.manual_seed(0)
        s = settings("psa", background_constant=constant, background_alpha=1.0, log_steps=0, radius=2)
        shares[constant] = learnt("psa")("test_resnet", "random", s, 10).eval().walk(photo, maps, Thresholds())
    assert shares[0.39][1, -1, -1] == pytest.approx(0.5 / 0.89, abs=0.02)
    assert shares[None][1, -1, -1] == pytest.approx(0.5, abs=0.02)
    nothing = learnt("psa")("test_resnet", "random", settings("psa", background_constant=0.39), 10)
    assert nothing.eval().walk(photo, maps[:0], Thresholds()).shape[0] == 0


@pytest.mark.parametrize("kind", [IRN, PSA])
def test_labels_come_from_the_confident_pixels(kind: type[IRN] | type[PSA]):
    photo = np.full((40, 60, 3), 60, np.uint8)
    photo[:, 30:] = 180
    maps = np.zeros((1, 40, 60), np.float32)
    maps[0, :, 30:] = np.linspace(1, 0.9, 30)
    labels = kind.label(photo, maps, (6,), Thresholds(), threads=1)
    assert labels.shape == (40, 60)
    assert (labels[:, 35:] == 7).all()
    assert (labels[:, :25] == 0).all()
    unsure = kind.label(photo, np.full((1, 40, 60), 0.4, np.float32), (6,), Thresholds(), threads=1)
    assert (unsure == 255).all()
