"""What local views of a photograph teach its global maps: the losses and targets of L2G (see `tagseg.methods.l2g`)."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torchvision.ops import roi_align

from tagseg.grid import Grid
from tagseg.masks.rescaling import over_maximum
from tagseg.networks.ranks import shared_mean

SALIENT = 0.5  # a view in which nothing reaches it has no shape to teach


def classification_loss(maps: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns the multi-label soft margin of globally pooled maps, averaged over views (equation 4).

    `(M, K, h, w)`, of which the first C channels are classes, and `(M, C)` multi-hot.
    """
    return F.multilabel_soft_margin_loss(maps[:, : tags.shape[1]].mean(dim=(2, 3)), tags)


def local_attention(maps: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
    """Returns A_i: maps rectified and divided by their maximum, 0 for classes that are no tags (section 3.2).

    `(M, C, h, w)`, `(M, C)` -> `(M, C, h, w)` in [0, 1].
    """
    return over_maximum(maps.relu()) * tags[:, :, None, None]


def winners(attention: torch.Tensor) -> torch.Tensor:
    """Keeps the strongest channel of every place. `(M, K, h, w)` -> the same, others 0."""
    return attention * (attention == attention.amax(dim=1, keepdim=True))


def local_targets(
    maps: torch.Tensor, tags: torch.Tensor, saliency: torch.Tensor | None, threshold: float
) -> torch.Tensor:
    """Returns what the global network is to say in every view.

    That is A_i, or B_i S_i where something is salient (equation 7).

    Args:
        maps: `(M, C, h, w)` of the local network.
        tags: `(M, C)` multi-hot.
        saliency: `(M, h, w)` in [0, 1], or None.
        threshold: B_i is where A_i exceeds it.

    Returns:
        `(M, C + 1, h, w)` in [0, 1]. The last channel, the background, is what the classes leave over, or what is not
        salient.
    """
    # A_i, and what is left of it when one class wins each place
    attention = local_attention(maps, tags)
    won = winners(attention)
    # the targets without shape: what the winner leaves over is background
    plain = torch.cat([won, 1 - won.amax(dim=1, keepdim=True)], dim=1)
    if saliency is None:
        return plain
    salient = saliency[:, None]
    # B_i S_i, of the winners: of several tags not each is everything that is salient
    shaped = torch.cat([(won > threshold) * salient, 1 - salient], dim=1)
    # whole views fall back, never single places
    empty = (salient < SALIENT).flatten(1).all(dim=1)
    return torch.where(empty[:, None, None, None], plain, shaped)


def official_targets(
    maps: torch.Tensor, tags: torch.Tensor, saliency: torch.Tensor | None, threshold: float
) -> torch.Tensor:
    """Returns what the global network is to say in every view by the published code, which never falls back.

    Where there is saliency, `maps` have a background channel, which has a tag of its own; the result has as many
    channels. Otherwise the arguments are those of `local_targets`.
    """
    if saliency is None:
        return winners(local_attention(maps, tags))
    tags = torch.cat([tags, torch.ones_like(tags[:, :1])], dim=1)
    found = winners(local_attention(maps, tags)) > threshold
    return torch.cat([found[:, :-1] * saliency[:, None], found[:, -1:] * (1 - saliency[:, None])], dim=1)


def transfer_loss(scores: torch.Tensor, targets: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the mean squared difference between the softmax over channels and the targets.

    The softmax is that of equation 5, the difference that of equation 6.

    Args:
        scores: `(M, K, h, w)`.
        targets: `(M, K, h, w)` in [0, 1].
        counted: `(M,)` bool, the views that teach; None: all do.
    """
    squares = (scores.softmax(dim=1) - targets).square()
    return shared_mean(squares, squares.new_ones(()) if counted is None else counted[:, None, None, None])


def probabilities(scores: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Returns the softmax over channels (equation 5), of the classes. `(B, K, h, w) -> (B, C, h, w)`."""
    return scores.softmax(dim=1)[:, :num_classes]


def with_images(boxes: torch.Tensor) -> torch.Tensor:
    """Puts the image's number in front of its boxes. `(B, N, 4) -> (B N, 5)`."""
    numbers = torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])
    return torch.cat([numbers[:, None], boxes.flatten(0, 1)], dim=1)


def crops(images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Cuts the local views. `(B, K, S, S)`, `(M, 5)` -> `(M, K, s, s)`."""
    return torch.cat([images[i : i + 1, :, y0:y1, x0:x1] for i, x0, y0, x1, y1 in boxes.tolist()])


def regions(
    maps: torch.Tensor, boxes: torch.Tensor, cells: tuple[int, int], grid: Grid, enlarged: float = 1.0
) -> torch.Tensor:
    """Returns the global maps as the local network's cells lie on them (region matching, section 3.2); bilinear.

    Args:
        maps: `(B, K, h, w)` of the global views.
        boxes: `(M, 5)`: image, and x0, y0, x1, y1 in pixels.
        cells: `(h', w')` of the local network's maps.
        grid: the geometry of both networks.
        enlarged: how many times larger the local network saw the view; its cells lie closer by as much.

    Returns:
        `(M, K, h', w')`.
    """
    # bilinear weights are separable: two small matrices a view instead of sampling
    down = _between(boxes[:, 2], cells[0], maps.shape[2], grid, enlarged).to(maps.dtype)
    across = _between(boxes[:, 1], cells[1], maps.shape[3], grid, enlarged).to(maps.dtype)
    # down @ maps @ across^T, with the maps of the image that each view was cut from
    return torch.einsum("mhy,mkyx,mwx->mkhw", down, maps[boxes[:, 0]], across)


def _between(starts: torch.Tensor, cells: int, side: int, grid: Grid, enlarged: float) -> torch.Tensor:
    """`(M, cells, side)`: weights of global cells along one axis, for views that start at these pixels."""
    centre = 0.0 if grid.corners else 0.5  # of a cell, in cells
    inner = (torch.arange(cells, device=starts.device) + centre) / enlarged - centre
    # in global cells; those beyond the last centre, which enlarged views have, take its value
    places = (starts[:, None] / grid.stride + inner).clamp(0, side - 1)
    distance = places[:, :, None] - torch.arange(side, device=starts.device)
    # the hat function: only the two global cells next to a place have a weight
    return (1 - distance.abs()).clamp(min=0)


def official_regions(maps: torch.Tensor, boxes: torch.Tensor, grid: tuple[int, int], stride: int) -> torch.Tensor:
    """Returns the global maps under local views as in the published code, by RoI align.

    It lacks the half-cell offset of RoI align. Arguments and result are those of `regions`.
    """
    return roi_align(maps, boxes.to(maps.dtype), output_size=grid, spatial_scale=1 / stride)
