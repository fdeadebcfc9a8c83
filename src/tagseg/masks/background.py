"""How strong must a class map be to be an object? Choosing that score without ever seeing a mask."""

from __future__ import annotations

import numpy as np

from tagseg.labels import IGNORE

BINS = 256


def histogram(maps: np.ndarray) -> np.ndarray:
    """Counts a photograph's strongest map value per pixel in 256 steps, `(256,)`.

    `maps (K, H, W)` are in [0, 1], and K is at least 1.
    """
    strongest = np.clip(maps.max(axis=0), 0, 1)
    return np.bincount((strongest * (BINS - 1)).round().astype(np.int64).ravel(), minlength=BINS)


def otsu_score(counts: np.ndarray) -> float:
    """Returns the background score, in [0, 1], from the map values alone.

    The rule pools the strongest map value of every pixel of all tagged training photographs, and splits that histogram
    in two where the variance between the halves is largest (Otsu, 1979). Maps are divided by their class maximum, so
    the pooled values of different photographs compare.

    Args:
        counts: `(256,)`, the sum of `histogram` over the photographs; every photograph may be weighted.
    """
    counts = counts.astype(np.float64)
    values = np.arange(BINS) / (BINS - 1)
    below = counts.cumsum()
    above = below[-1] - below
    sum_below = (counts * values).cumsum()
    sum_above = sum_below[-1] - sum_below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sum_below / below - sum_above / above) ** 2
    between = np.nan_to_num(between[:-1])
    best = np.flatnonzero(between == between.max())
    return float((values[best].mean() + values[best + 1].mean()) / 2)


def with_background(maps: np.ndarray, score: float) -> np.ndarray:
    """Puts a constant background channel in front: `(K, H, W) -> (K + 1, H, W)`."""
    return np.concatenate([np.full_like(maps[:1], score), maps])


def label_mask(scores: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Returns the strongest channel of `(K + 1, H, W)` as indices `(H, W)` uint8.

    They are 0 for background and `classes[k] + 1` for map k.
    """
    return np.array([0, *(c + 1 for c in classes)], dtype=np.uint8)[scores.argmax(axis=0)]


def keep_confident(mask: np.ndarray, scores: np.ndarray, share: float) -> np.ndarray:
    """Returns a mask in which only the surest pixels of every label are known.

    Args:
        mask: `(H, W)` uint8.
        scores: `(K + 1, H, W)`, of which it is made; a pixel is the surer, the further its score is before the next.
        share: of the pixels of a label that stay, in (0, 1], rounded down; the others are 255.

    Source: KTSE's published code, between IRN and the segmentation network.
    """
    if share == 1 or len(scores) < 2:
        return mask
    two = np.partition(scores, -2, axis=0)[-2:]
    margin, kept = two[1] - two[0], np.full_like(mask, IGNORE)
    for label in np.unique(mask):
        places = np.flatnonzero(mask == label)
        order = np.argsort(-margin.flat[places], kind="stable")
        kept.flat[places[order[: int(share * len(places))]]] = label
    return kept
