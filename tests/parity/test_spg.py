"""SPG against its published code (clovaai/wsolevaluation, commit 96f4b88, MIT licence).

`data/spg.npz` is what the losses of its `wsol/method/spg.py` make of random maps of 5 classes, of which an image has
one, and of the logits of three branches, at its published thresholds.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.methods.spg import guidance, guidance_loss, tag_attention
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "spg.npz") as arrays:
    REFERENCE = {key: torch.from_numpy(arrays[key]) for key in arrays}


def grown(scores: torch.Tensor) -> torch.Tensor:
    return F.interpolate(scores, size=(224, 224), mode="bilinear", align_corners=False)


def test_guidance_and_losses():
    r = REFERENCE
    tags = F.one_hot(r["labels"], 5).float()
    leaves = [r[key].clone().requires_grad_() for key in ("shallow", "deep", "last")]
    shallow, deep, last = (grown(leaf) for leaf in leaves)
    # the published code enlarges the map before it is normalised
    sure, fused = tag_attention(grown(r["maps"]), tags), (shallow.sigmoid() + deep.sigmoid()) / 2
    taught = ((deep, sure, 0.7, 0.01), (shallow, deep.sigmoid(), 0.5, 0.05), (last, fused, 0.7, 0.1))
    for (_, scores, high, low), counts in zip(taught, r["counts"].tolist(), strict=True):
        labels = guidance(scores, high, low)
        assert [int((labels == value).sum()) for value in (0, 1, 255)] == counts
    loss = sum(guidance_loss(*each) for each in taught)
    assert_close(loss.detach().numpy()[None], r["loss"].numpy()[None])
    for found, key in zip(torch.autograd.grad(loss, leaves), ("shallow", "deep", "last"), strict=True):
        assert_close(found.numpy(), r[f"grad_{key}"].numpy(), 1e-4)
