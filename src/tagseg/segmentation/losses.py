"""Cross-entropies with masks that are partly unknown."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tagseg.labels import IGNORE
from tagseg.networks.ranks import shared_mean

_NOWHERE = -50.0  # a logit that finds nothing


def segmentation_loss(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Returns the mean cross-entropy over labelled pixels; zero, with zero gradient, when there is none.

    Args:
        logits: `(B, C + 1, h, w)`; masks: `(B, h, w)` int64, 255 = ignore.
    """
    entropy = F.cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="none")
    return shared_mean(entropy, masks != IGNORE)


def halves_of_loss(
    logits: torch.Tensor, masks: torch.Tensor, counted: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the mean cross-entropy over background pixels, and that over the pixels of classes.

    Either is zero where there are none.

    Args:
        logits: `(B, C + 1, h, w)`; masks: `(B, h, w)`, 255 = ignore.
        counted: `(B,)` bool, the images whose pixels of classes count; None: all.
    """
    entropy = F.cross_entropy(logits.float(), masks.long(), ignore_index=IGNORE, reduction="none")
    classes = (masks > 0) & (masks != IGNORE)
    if counted is not None:
        classes = classes & counted[:, None, None]
    return shared_mean(entropy, masks == 0), shared_mean(entropy, classes)


def tag_loss(logits: torch.Tensor, tags: torch.Tensor, inside: torch.Tensor, share: float = 1 / 30) -> torch.Tensor:
    """Returns the binary cross-entropy of the tags with what a segmentation network finds of every class.

    A class is found as far as its logits are above the background's, in the mean over the places where they are most.

    Args:
        logits: `(B, C + 1, h, w)`, background first.
        tags: `(B, C)` of 0 and 1.
        inside: `(B, h, w)` bool, which places belong to the photograph.
        share: of all places, those that count for a class.
    """
    above = (logits[:, 1:] - logits[:, :1]).float().flatten(2)
    places = max(1, round(share * above.shape[-1]))
    above = above.masked_fill(~inside.flatten(1)[:, None], _NOWHERE)
    return F.binary_cross_entropy_with_logits(above.topk(places, dim=2).values.mean(dim=2), tags)
