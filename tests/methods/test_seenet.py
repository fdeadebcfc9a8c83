"""SeeNet: what its second classifier sees, and the three losses written out."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import names
from tests.methods.any_method import built


def strongest(maps: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """The largest of the tags' maps, each over its maximum; 0 without tags. `(B, h, w)`."""
    found = torch.zeros(len(maps), *maps.shape[2:])
    for one, own, result in zip(maps.relu(), tags.bool(), found, strict=True):
        for map_ in one[own]:
            torch.maximum(result, map_ / map_.max().clamp(min=1e-8), out=result)
    return found


@pytest.mark.parametrize(("background", "below"), [("halfway", 0.375), ("low", 0.05)])
def test_the_background_is_turned_and_holds_no_class(background: str, below: float, monkeypatch: pytest.MonkeyPatch):
    network: Any = built("seenet", names(3), background=background)
    features = torch.randn(2, network.backbone.channels, 4, 5)
    found = torch.tensor([0.9, 0.7, 0.3, 0.05, 0.01]).expand(2, 1, 4, 5)
    signs = torch.tensor([0.0, 0.0, 1.0, 1.0, -1.0])
    torch.testing.assert_close(network.train().left(features, found), features.relu() * signs)
    unturned = torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])  # once it has learnt
    torch.testing.assert_close(network.eval().left(features, found), features.relu() * unturned)
    network.train()
    images, tags = torch.randn(2, 3, 49, 49), torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    batch = {"image": images, "tags": tags, "inside": torch.tensor([[0, 49, 0, 49]] * 2)}
    monkeypatch.setattr(type(network), "log", lambda *_, **__: None)
    loss = network.training_step(batch, 0).detach()
    with torch.no_grad():
        seen = network.backbone(images)
        first = network.classifier[0](seen)
        map_ = strongest(first, tags)
        zones = 1.0 * (map_ < 0.7) - 2.0 * (map_ < 0.05)  # 0, 1, -1
        second = network.classifier[1](seen.relu() * zones[:, None])
        third = network.classifier[1](seen.relu() * (strongest(second, tags) < below)[:, None])
        targets = ((first, tags), (second, tags), (third, torch.zeros_like(tags)))
        right = sum(F.multilabel_soft_margin_loss(maps.mean(dim=(2, 3)), target) for maps, target in targets)
    torch.testing.assert_close(loss, torch.as_tensor(right), rtol=1e-4, atol=1e-5)
