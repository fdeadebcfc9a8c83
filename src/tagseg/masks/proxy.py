"""Proxy affinity: class maps spread between the parts of a photograph that look alike to a frozen network.

Lan et al., "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation", ECCV 2024, section 3.3, where
the values of CLIP's last attention are spread; here it is the class maps of any network. Nothing is learnt, and no mask
is seen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.errors import BadInput

CHUNK = 1 << 23  # affinities that are held at a time, at most (32 MB; several times that while they are computed)


def proxy_affinity(
    features: torch.Tensor, beta: float = 1.0, gamma: float = 4.0, rows: slice = slice(None)
) -> torch.Tensor:
    """Returns how much every cell takes from every other: A = softmax_j(gamma (S_ij - beta mean S)).

    S is the cosine similarity. What is less alike than `beta` times the mean is left out; a cell is always alike to
    itself (equations 5 to 7).

    Args:
        features: `(n, D)` of the n cells.
        beta: the larger, the fewer cells count.
        gamma: the larger, the less those count that are less alike.
        rows: the cells that are asked for.

    Returns:
        `(m, n)`, whose rows add up to 1.
    """
    unit = F.normalize(features.float(), dim=1)
    # the mean of products of all pairs is the product of the means
    threshold = beta * unit.mean(dim=0).square().sum()
    similarity = unit[rows] @ unit.T
    numbers = torch.arange(len(unit), device=unit.device)[rows]
    kept = similarity >= threshold
    kept[torch.arange(len(numbers), device=unit.device), numbers] = True
    return (gamma * similarity).masked_fill(~kept, -torch.inf).softmax(dim=1)


def spread(features: torch.Tensor, maps: torch.Tensor, beta: float = 1.0, gamma: float = 4.0) -> torch.Tensor:
    """Returns maps that have been spread along the proxy affinity: A maps.

    Memory stays bounded whatever the size, because the rows of A are computed in parts.

    Args:
        features: `(D, h, w)`.
        maps: `(K, h, w)` on the same cells.
        beta, gamma: see `proxy_affinity`.

    Returns:
        `(K, h, w)` float32.
    """
    cells = features.flatten(1).T
    values = maps.float().flatten(1).T
    step = max(1, CHUNK // max(1, len(cells)))
    with torch.autocast(features.device.type, enabled=False):  # products of 16 bits are too coarse for an exponent
        parts = [
            proxy_affinity(cells, beta, gamma, slice(start, start + step)) @ values
            for start in range(0, len(cells), step)
        ]
    return torch.cat(parts).T.reshape(maps.shape)


def spread_scores(features: np.ndarray, scores: np.ndarray, beta: float = 1.0, gamma: float = 4.0) -> np.ndarray:
    """Returns scores that have been spread, each divided so that its maximum stays what it was.

    A constant score, such as the background's, stays as it is.

    Args:
        features: `(D, h, w)`.
        scores: `(L, h, w)`, not negative, on the same cells.
        beta, gamma: see `proxy_affinity`.

    Returns:
        `(L, h, w)` float32.

    Raises:
        BadInput: features and scores of different grids.
    """
    if features.shape[1:] != scores.shape[1:]:
        raise BadInput(f"the features have {features.shape[1:]} cells, the scores {scores.shape[1:]}; make them alike.")
    found = spread(torch.from_numpy(features), torch.from_numpy(np.ascontiguousarray(scores)), beta, gamma).numpy()
    highest = scores.max(axis=(1, 2), keepdims=True, initial=0)
    return found * (highest / np.maximum(found.max(axis=(1, 2), keepdims=True, initial=0), 1e-8))
