"""Superpixels, and scores and masks that are one and the same throughout each (LayerCAM, TIP 2021, section IV-E)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from skimage.segmentation import felzenszwalb, slic

from tagseg.masks.checks import check_scores

SuperpixelKind = Literal["slic", "felzenszwalb"]


def superpixels(
    image: np.ndarray, count: int = 200, compactness: float = 10.0, kind: SuperpixelKind = "slic"
) -> np.ndarray:
    """Cuts a photograph into superpixels.

    `(H, W, 3)` uint8 RGB -> `(H, W)` labels 0..n-1, about `count` of them.

    SLIC (Achanta et al., TPAMI 2012) makes them of like size, as round as `compactness` says. Felzenszwalb and
    Huttenlocher (IJCV 2004) let them be as large as their colour lasts, and only the smallest are as many pixels as
    `count` of them would have on average, over four.
    """
    if kind == "slic":
        return slic(image, n_segments=count, compactness=compactness, start_label=0, channel_axis=2)
    smallest = max(1, image.shape[0] * image.shape[1] // (4 * count))
    return felzenszwalb(image, scale=100, sigma=0.8, min_size=smallest, channel_axis=2)


def superpixel_scores(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the mean of every score within every superpixel.

    `(K, H, W)` and `(H, W)` labels -> `(K, H, W)`.
    """
    flat = labels.ravel()
    areas = np.bincount(flat)
    means = np.stack([np.bincount(flat, plane.ravel(), len(areas)) / np.maximum(areas, 1) for plane in scores])
    return means[:, labels].astype(scores.dtype)


def refine_superpixels(
    image: np.ndarray, scores: np.ndarray, *, kind: SuperpixelKind = "slic", count: int = 200
) -> np.ndarray:
    """Refines scores to be constant on superpixels.

    `(H, W, 3)` uint8 and `(K + 1, H, W)` -> scores of the same shape.

    Raises:
        BadInput: sizes that differ, or scores that are not finite.
    """
    image, scores = check_scores(image, scores)
    return superpixel_scores(scores, superpixels(image, count, kind=kind))


def superpixel_mask(
    maps: np.ndarray, classes: tuple[int, ...], labels: np.ndarray, threshold: float = 0.3
) -> np.ndarray:
    """Gives every superpixel the class of its largest mean map value, or background when that is below `threshold`.

    Args:
        maps: `(K, H, W)` in [0, 1] of the 0-based `classes` (K may be 0).
        labels: `(H, W)` from `superpixels`.

    Returns:
        `(H, W)` uint8: 0 background, class c at c + 1.
    """
    if not classes:
        return np.zeros(labels.shape, np.uint8)
    means = superpixel_scores(maps, labels)
    names = (np.asarray(classes) + 1).astype(np.uint8)[means.argmax(axis=0)]
    return np.where(means.max(axis=0) >= threshold, names, 0).astype(np.uint8)
