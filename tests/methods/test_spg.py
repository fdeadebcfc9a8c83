"""What SPG learns with, beside what tests/parity and test_any_method.py say of it."""

from typing import Any

import torch
from torch.nn import functional as F

from tests.conftest import names
from tests.methods.any_method import built

BATCH = {
    "image": torch.randn(2, 3, 49, 49, generator=torch.Generator().manual_seed(0)),
    "tags": torch.eye(3)[:2],
    "inside": torch.tensor([[0, 49, 0, 49]] * 2),
}


def learnt(**changes: Any) -> Any:
    """SPG after a step on two photographs."""
    torch.manual_seed(0)
    network = built("spg", names(3), width=8, norms="frozen", **changes)
    network.log = lambda *_, **__: None
    network.training_step(BATCH, 0).backward()
    return network


def test_more_convolutions_lie_before_the_classes_and_the_last_branch():
    network = learnt(convolutions=2)
    assert network.classifier.in_channels == network.last[0].in_channels == 512
    assert network.class_maps(BATCH["image"]).shape[:2] == (2, 3)
    assert all(p.grad is not None for p in network.convolutions.parameters())


def test_of_photographs_of_one_class_the_softmax_learns():
    network = learnt(loss="softmax")
    logits = network.tag_logits(network.class_maps(BATCH["image"])).float()
    torch.testing.assert_close(network.terms["classification"], F.cross_entropy(logits, BATCH["tags"]))
    assert network.exclusive
    assert not learnt().exclusive
