"""Cross-entropies with masks that are partly unknown."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tagseg.labels import IGNORE
from tagseg.networks.ranks import shared_mean, shared_sum

_NOWHERE = -50.0  # a logit that finds nothing


def segmentation_loss(logits: torch.Tensor, masks: torch.Tensor, balance: float = 0.0) -> torch.Tensor:
    """Returns the mean cross-entropy over labelled pixels; zero, with zero gradient, when there is none.

    Args:
        logits: `(B, C + 1, h, w)`.
        masks: `(B, h, w)` int64, 255 = ignore.
        balance: the power of `balanced_by_photograph`, by which pixels weigh; 0: all alike.
    """
    entropy = F.cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="none")
    if balance:
        entropy = entropy * balanced_by_photograph(masks, logits.shape[1], balance)
    return shared_mean(entropy, masks != IGNORE)


def clipped_loss(logits: torch.Tensor, masks: torch.Tensor, start: float, side: int) -> torch.Tensor:
    """Returns the mean cross-entropy of which no pixel has more than its surroundings in the batch have on average.

    What a mask has wrong stands out once a network has learnt what is right, and is then no longer learnt (WeakTr, Zhu
    et al. 2023, section 3.4, "gradient clipping decoder").

    Args:
        logits: `(B, C + 1, h, w)`.
        masks: `(B, h, w)` int64, 255 = ignore.
        start: mean loss up to which pixels are clipped; above it they count as they are.
        side: of the squares whose mean over all photographs is the most that a pixel in them counts, or else the mean
            of everything, where that is more; places.
    """
    known = masks != IGNORE
    entropy = F.cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="none")
    total, count = (shared_sum(part.sum(dim=0, dtype=torch.float32)) for part in (entropy.detach(), known))
    mean = total.sum() / count.sum().clamp(min=1)
    if mean <= start:
        height, width = masks.shape[-2:]
        whole = (0, -width % side, 0, -height % side)
        sums, counts = (F.avg_pool2d(F.pad(part, whole)[None], side)[0] for part in (total, count))
        local = torch.where(counts > 0, sums / counts.clamp(min=1e-9), mean).clamp(min=mean)
        most = local.repeat_interleave(side, dim=0).repeat_interleave(side, dim=1)[:height, :width]
        entropy = torch.minimum(entropy, most)
    return shared_mean(entropy, known)


def balanced_by_photograph(masks: torch.Tensor, outputs: int, power: float) -> torch.Tensor:
    """Returns weights of places, so that what little a photograph has of a label is not drowned by the rest.

    A place weighs as the number of places with its label in the same photograph, to the minus `power`; the weights of a
    photograph add up to the number of its labelled places, and unlabelled ones have none.

    Args:
        masks: `(B, h, w)` int64 in 0..C, 255 = ignore.
        outputs: C + 1.
        power: 0: all places weigh alike; 1: all labels of a photograph do.

    Returns:
        `(B, h, w)` float32.
    """
    known = masks != IGNORE
    labels = torch.where(known, masks, 0).flatten(1)
    counts = labels.new_zeros(len(masks), outputs, dtype=torch.float32)
    counts.scatter_add_(1, labels, known.flatten(1).float())
    weights = (counts.clamp(min=1) ** -power).gather(1, labels).view(masks.shape) * known
    total = weights.sum(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    return weights * (known.sum(dim=(1, 2), keepdim=True) / total)


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
