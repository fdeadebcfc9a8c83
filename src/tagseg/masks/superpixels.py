"""Superpixels, and masks that give each of them one label (LayerCAM, TIP 2021, section IV-E)."""

from __future__ import annotations

import numpy as np
from skimage.segmentation import slic


def superpixels(image: np.ndarray, count: int = 200, compactness: float = 10.0) -> np.ndarray:
    """SLIC (Achanta et al., TPAMI 2012): `(H, W, 3)` uint8 RGB -> `(H, W)` labels 0..n-1, about `count` of them."""
    return slic(image, n_segments=count, compactness=compactness, start_label=0, channel_axis=2)


def superpixel_scores(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean of every score within every superpixel: `(K, H, W)` and `(H, W)` labels -> `(K, H, W)`."""
    flat = labels.ravel()
    areas = np.bincount(flat)
    means = np.stack([np.bincount(flat, plane.ravel(), len(areas)) / areas for plane in scores])
    return means[:, labels].astype(scores.dtype)


def superpixel_mask(
    maps: np.ndarray, classes: tuple[int, ...], labels: np.ndarray, threshold: float = 0.3
) -> np.ndarray:
    """Every superpixel gets the class of its largest mean map value, or background when that is below `threshold`.

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
