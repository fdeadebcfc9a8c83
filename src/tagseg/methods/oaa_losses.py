"""What cumulative maps keep of an epoch, and how a second network learns from them (see `tagseg.methods.oaa`)."""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional as F

from tagseg.networks.ranks import shared_mean


def winning(maps: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns maps in which a place belongs to the strongest tag of its photograph, and to no other.

    `(B, C, h, w)` signed, `(B, C)` multi-hot -> `(B, C, h, w)`, 0 at most where another tag is stronger.
    """
    strongest = maps.masked_fill(tags[:, :, None, None] == 0, -torch.inf).amax(dim=1, keepdim=True)
    return torch.where(maps < strongest, maps.clamp(max=0), maps)


def trusted(logits: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns which tags are among the n strongest classes of their photograph, n being how many tags it has.

    So does the published code. `(B, C)` scores, `(B, C)` multi-hot -> `(B, C)` bool.
    """
    rank = logits.argsort(dim=1, descending=True).argsort(dim=1)
    return tags.bool() & (rank < tags.sum(dim=1, keepdim=True))


def enhancement_loss(scores: torch.Tensor, accumulated: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """Returns the enhancement loss, by which attention grows where it ever was (equations 4.6 to 4.8).

    It is `-mean over N+ of p log q`, 0 where N+ is empty. `(B, C, h, w)` log-odds of q, `(B, C, h, w)` p in [0, 1] ->
    `(B, C)`.
    """
    positive = (accumulated > threshold).to(scores.dtype)
    total = -(positive * accumulated * F.logsigmoid(scores)).sum(dim=(2, 3))
    return total / positive.sum(dim=(2, 3)).clamp(min=1)


def constraint_loss(scores: torch.Tensor, accumulated: torch.Tensor, threshold: float = 0.0) -> torch.Tensor:
    """Returns the constraint loss, by which attention stays away where it never was (equations 4.6 to 4.8).

    It is `-mean over N- of log(1 - q)`, 0 where N- is empty. `(B, C, h, w)` log-odds of q, `(B, C, h, w)` p in [0, 1]
    -> `(B, C)`.
    """
    negative = ((accumulated <= threshold) & (accumulated >= 0)).to(scores.dtype)
    total = -(negative * F.logsigmoid(-scores)).sum(dim=(2, 3))
    return total / negative.sum(dim=(2, 3)).clamp(min=1)


def hybrid_loss(
    scores: torch.Tensor,
    accumulated: torch.Tensor,
    threshold: float = 0.0,
    compat: Literal["paper", "official"] = "paper",
) -> torch.Tensor:
    """Returns enhancement plus constraint (equations 4.6 to 4.8): the sum over classes, the mean over photographs.

    The published code takes one mean over the positive places of all photographs and classes and one over all negative
    ones, calls positive what exceeds 0.001, and adds 1e-8 inside the logarithm of `1 - q` (`compat="official"`). Absent
    classes are negative everywhere in both.

    Args:
        scores: `(B, C, h, w)` log-odds.
        accumulated: `(B, C, h, w)` in [0, 1]; what is below 0 is not known, and counts in neither mean.
        threshold: what exceeds it is positive.
    """
    if compat == "paper":
        both = enhancement_loss(scores, accumulated, threshold) + constraint_loss(scores, accumulated, threshold)
        return both.sum(dim=1).mean()
    positive = accumulated > max(threshold, 0.001)
    negative = (accumulated >= 0) & ~positive
    grow = -shared_mean(accumulated * F.logsigmoid(scores), positive)
    return grow - shared_mean(torch.log(1 - scores.sigmoid() + 1e-8), negative)


def cross_entropy(scores: torch.Tensor, accumulated: torch.Tensor) -> torch.Tensor:
    """Returns the plain multi-label cross-entropy that hybrid loss is held against.

    Every cell draws q towards p. The shapes are those of `hybrid_loss`; it is the sum over classes, the mean over
    places and photographs.
    """
    known = (accumulated >= 0).to(scores.dtype)
    each = F.binary_cross_entropy_with_logits(scores, accumulated.clamp(min=0), weight=known, reduction="none")
    return each.mean(dim=(2, 3)).sum(dim=1).mean()
