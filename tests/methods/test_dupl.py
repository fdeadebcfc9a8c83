"""DuPL: two networks that teach each other, and labels that are dropped where they are improbable.

Losses, labels and the mixture were held against the published code, to which they are equal (1e-6; the mixture's choice
on 3,900 numbers, to scikit-learn's); it has no licence, so that the formulas are written out here instead.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tagseg.data.photometry import alter
from tagseg.data.reading import read_dataset
from tagseg.data.views import whole
from tagseg.errors import BadInput
from tagseg.labels import IGNORE
from tagseg.masks.mixture import improbable, two_normals
from tagseg.methods.auxiliary_stage import labels_of
from tagseg.methods.dupl import DuPL, discrepancy_loss
from tagseg.pipeline.settings import resolve
from tests.conftest import names
from tests.methods.any_method import built


@pytest.fixture
def network() -> DuPL:
    found = built("dupl", names(3), steps=100, high_of={"class 1": 0.7}, filter_from=0.5)
    assert isinstance(found, DuPL)
    return found


def test_thresholds_fall_along_half_a_cosine(network: DuPL, monkeypatch: pytest.MonkeyPatch):
    tags = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 0]])
    found = {}
    for step in (0, 50, 99):
        monkeypatch.setattr(DuPL, "global_step", step)
        found[step] = network.thresholds(tags).tolist()
    assert found[0] == pytest.approx([0.7, 0.7, 0.7])
    share = (1 - math.cos(math.pi * 50 / 99)) / 2
    assert found[50] == pytest.approx([0.7 - 0.15 * share, 0.7, 0.7])  # the largest of the tags'
    assert found[99] == pytest.approx([0.55, 0.7, 0.7])


def test_a_threshold_for_each_photograph():
    maps = torch.tensor([0.6, 0.6]).view(2, 1, 1, 1)
    found = labels_of(maps, torch.ones(2, 1), high=torch.tensor([0.55, 0.65]), low=0.25)
    assert found.flatten().tolist() == [1, IGNORE]


def test_two_kinds_of_losses():
    rng = torch.Generator().manual_seed(0)
    right, wrong = (mean + spread * torch.randn(count, generator=rng) for mean, spread, count in
                    ((0.6, 0.2, 3000), (2.8, 0.5, 900)))  # fmt: skip
    values = torch.cat([right, wrong])
    means, variances, shares = two_normals(values)
    assert means.tolist() == pytest.approx([0.6, 2.8], abs=0.05)
    assert variances.sqrt().tolist() == pytest.approx([0.2, 0.5], abs=0.05)
    assert shares.tolist() == pytest.approx([3000 / 3900, 900 / 3900], abs=0.02)
    dropped = improbable(values, values, gap=1.0, sure=0.95)
    assert dropped is not None
    assert dropped[3000:].float().mean() > 0.97
    assert dropped[:3000].float().mean() < 0.01
    assert improbable(values, values, gap=3.0, sure=0.95) is None
    assert improbable(torch.full((50,), 0.3), torch.zeros(2, 2), gap=1.0, sure=0.95) is None  # all alike


def test_improbable_labels_are_dropped(network: DuPL):
    """Half of an object's pixels that the network calls something else, by far."""
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    labels[:, 16:48, 16:48] = 2
    labels[:, :4] = IGNORE
    scores = torch.zeros(1, 4, 64, 64)
    scores[:, 2, 16:48, 16:32] = 1.0 + 0.2 * torch.randn(1, 32, 16, generator=torch.Generator().manual_seed(0))
    scores[:, 0, 16:48, 32:48] = 6.0
    found = network.cleaned(scores, labels)
    assert (found[:, 16:48, 32:48] == IGNORE).all()
    assert (found[:, 16:48, 16:32] == 2).all()
    torch.testing.assert_close(found == 0, labels == 0)  # background stays


def test_consistency_is_of_sure_places_without_a_label(network: DuPL):
    plain, altered = torch.randn(2, 4, 8, 8) * 3, torch.randn(2, 4, 8, 8)
    labels = torch.randint(0, 4, (2, 8, 8))
    labels[:, ::2] = IGNORE
    inside = torch.tensor([[0, 8, 0, 8], [0, 4, 0, 8]])
    total, count = 0.0, 0
    for b in range(2):
        for y in range(inside[b, 1]):
            for x in range(8):
                chances = plain[b, :, y, x].softmax(dim=0)
                if labels[b, y, x] == IGNORE and chances.max() > 0.9:
                    total -= float(altered[b, :, y, x].log_softmax(dim=0)[chances.argmax()])
                    count += 1
    assert count
    assert float(network.consistency(altered, plain, labels, inside)) == pytest.approx(total / count, rel=1e-5)
    assert float(network.consistency(altered, plain, torch.zeros_like(labels), inside)) == 0


def test_discrepancy_moves_either_network_away_from_the_other():
    one, other = (torch.randn(2, 5, 3, 4, requires_grad=True) for _ in range(2))
    loss = discrepancy_loss(one, other)
    cosines = [
        F.cosine_similarity(one[b, c].flatten(), other[b, c].flatten(), dim=0) for b in range(2) for c in range(5)
    ]
    assert float(loss.detach()) == pytest.approx(float(2 + 2 * torch.stack(cosines).mean().detach()), rel=1e-5)
    loss.backward()
    assert one.grad is not None
    assert other.grad is not None
    with torch.no_grad():
        assert discrepancy_loss(one - one.grad, other - other.grad) < loss
    alike = torch.randn(1, 3, 4, 4)
    assert float(discrepancy_loss(alike, alike)) == pytest.approx(4)


def test_what_is_learnt_from_which_step_on(monkeypatch: pytest.MonkeyPatch, tiny_set: Path):
    data = read_dataset(tiny_set)
    network: Any = built("dupl", data.classes, steps=100, classes_first=0.1, filter_from=0.5)
    views = network.training_views(data.train[:2], seed=0)
    items = [views[0, n] for n in range(2)]
    assert items[0].keys() == {"image", "tags", "inside", "altered"}
    assert not torch.equal(items[0]["image"], items[0]["altered"].flip(-1))
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    monkeypatch.setattr(DuPL, "log", lambda *_, **__: None)
    found = []
    for step in (5, 10, 60):
        monkeypatch.setattr(DuPL, "global_step", step)
        network.training_step(batch, 0)
        found.append(set(network.terms))
    first = {"classification", "patch_contrast", "discrepancy"}
    assert found == [first, first | {"segmentation"}, first | {"segmentation", "consistency"}]
    learnt = {id(p) for group in network.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert learnt == {id(p) for p in network.parameters() if p.requires_grad}


def test_each_decoder_learns_the_others_labels(network: DuPL, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(DuPL, "global_step", 10)
    images, tags = torch.randn(1, 3, 64, 64), torch.tensor([[1.0, 0, 0]])
    batch = {"image": images, "tags": tags, "inside": torch.tensor([[0, 64, 0, 64]])}
    seen = [student.tokens(images) for student in network.students]
    everything, nothing = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    everything[:, 0] = 1
    loss = network.exchange(batch, seen, [everything, nothing], network.thresholds(tags))["segmentation"]
    scores = [s.scores_at(t.patches, images).log_softmax(dim=1) for s, t in zip(network.students, seen, strict=True)]
    right = -(scores[0][:, 0].mean() + scores[1][:, 1].mean()) / 2  # the first learns background, the second the class
    assert float(loss.detach()) == pytest.approx(network.settings.segmentation_weight * float(right.detach()), rel=1e-4)


def test_what_is_altered_keeps_its_place():
    photo = np.zeros((20, 30, 3), dtype=np.uint8)
    photo[5:10, 8:20] = (200, 40, 90)
    view = alter(whole(photo), np.random.default_rng(0))
    inside = view.image[6:9, 9:19].reshape(-1, 3)
    assert view.image.shape == photo.shape
    assert np.ptp(inside, axis=0).max() < 30
    assert np.abs(inside.mean(axis=0) - view.image[15:, :].reshape(-1, 3).mean(axis=0)).max() > 20


def test_no_average_teaches_it():
    with pytest.raises(BadInput, match="the two networks teach each other"):
        resolve("dupl", {"train.teacher_decay": 0.9})
