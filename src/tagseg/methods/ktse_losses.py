"""The losses of KTSE (see `tagseg.methods.ktse`)."""

from __future__ import annotations

from typing import Literal

import torch

from tagseg.masks.rescaling import normalised
from tagseg.networks.ranks import shared_mean
from tagseg.segmentation.losses import halves_of_loss


def rise_loss(teacher: torch.Tensor, learner: torch.Tensor, tags: torch.Tensor, margin: float = 0.0) -> torch.Tensor:
    """Returns how much the tags' maps of the teacher are above those of the learner: L_kt and L_local.

    Both sides learn from it. Two `(B, C, h, w)` signed, and `(B, C)` multi-hot; the mean over all classes and places.
    """
    rises = (teacher - learner - margin).relu() * tags[:, :, None, None]
    return shared_mean(rises, rises.new_ones(()))


def global_alignment(maps: torch.Tensor, erased: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns L_global: the mean absolute difference of the tags' pooled, rectified maps.

    Two `(B, C, h, w)` signed, and `(B, C)` multi-hot.
    """
    difference = maps.relu().mean(dim=(2, 3)) - erased.relu().mean(dim=(2, 3))
    return (difference * tags).abs().mean()


def label_maps(maps: torch.Tensor, compat: Literal["paper", "official"]) -> torch.Tensor:
    """Returns the normalised maps from which pseudo-labels are made, `(B, C, H, W)`.

    In the published code they are divided without being rectified, which turns the sign of a map that is negative
    everywhere.
    """
    if compat == "paper":
        return normalised(maps)
    return maps / (maps.amax(dim=(2, 3), keepdim=True) + 1e-5)


def official_label_loss(
    scores: torch.Tensor, labels: torch.Tensor, tags: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the two halves of L_ce in the published code: of background and of class pixels.

    Each is the mean of its own pixels, and 0 without any. With `tags` `(B, C)` class pixels count in images with a
    single one only.
    """
    return halves_of_loss(scores, labels, None if tags is None else tags.sum(dim=1) == 1)


def inter_loss(scores: torch.Tensor, tags: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Returns L_inter: how near the second strongest class comes to the strongest, which does not learn from it.

    It is taken in images with several tags, and is 0 without any.

    Args:
        scores: `(B, C, H, W)`.
        tags: `(B, C)` multi-hot.
        seen: `(B, 1, H, W)` bool, the pixels that count.
    """
    if scores.shape[1] < 2:
        return scores.new_zeros(())
    where = seen[:, 0] & (tags.sum(dim=1) > 1)[:, None, None]
    # (P, C), the pixels that count only; the second is sought among all classes, tags or not
    strongest, second = scores.movedim(1, -1)[where].topk(2, dim=-1).values.unbind(-1)
    return shared_mean(second - strongest.detach(), second.new_ones(()))
