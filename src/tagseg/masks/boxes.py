"""From class maps to boxes: threshold, largest connected component, its bounding box; graph cut for scattered maps."""

from __future__ import annotations

import cv2
import numpy as np

from tagseg.errors import BadInput

ILSVRC_THRESHOLD = 0.15  # of the maximum (LayerCAM, section IV-B)


def box_of_map(class_map: np.ndarray, threshold: float = ILSVRC_THRESHOLD) -> tuple[int, int, int, int] | None:
    """Returns the box of the largest connected component above a fraction of the map's maximum.

    Args:
        class_map: `(H, W)`, any range; negative values are no evidence.
        threshold: in 0..1.

    Returns:
        `(x0, y0, x1, y1)` in pixels, x1 and y1 exclusive; None for a map without positive evidence.
    """
    if not 0 <= threshold < 1:
        raise BadInput(f"threshold {threshold}: give a fraction of the maximum, from 0 to below 1.")
    highest = class_map.max()
    if not highest > 0:
        return None
    return box_of_mask(class_map > threshold * highest)


def box_of_mask(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Returns the box `(x0, y0, x1, y1)`, ends exclusive, of the largest 8-connected component of `(H, W)` bool;
    None where nothing is set."""
    count, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    left, top, width, height, _ = statistics[1 + statistics[1:, cv2.CC_STAT_AREA].argmax()]
    return int(left), int(top), int(left + width), int(top + height)


def official_box(
    class_map: np.ndarray, threshold: float = ILSVRC_THRESHOLD, image: np.ndarray | None = None
) -> tuple[int, int, int, int]:
    """Returns the box that LayerCAM's published script takes: the largest rectangle around a contour.

    The map is in 8 bits, and the contours are those of what exceeds a fraction of its maximum. With an image one round
    of GrabCut, which takes what exceeds it for sure and all else for probable background, says what they go around.

    Args:
        class_map: `(H, W)` in [0, 1], the size of the image.
        threshold: the fraction.
        image: `(H, W, 3)` uint8 RGB, for maps of the first three stages.

    Returns:
        `(x0, y0, x1, y1)` in pixels, x1 and y1 exclusive; `(0, 0, 1, 1)` where nothing exceeds it.
    """
    levels = np.round(255 * np.clip(class_map, 0, 1)).astype(np.uint8)
    inside = levels > int(threshold * levels.max())
    if image is not None and inside.any() and not inside.all():
        seeds = np.where(inside, cv2.GC_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        inside = _cut(image, seeds, rounds=1)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    rectangles = [cv2.boundingRect(contour) for contour in contours]
    if not rectangles:
        return 0, 0, 1, 1
    x, y, width, height = max(rectangles, key=lambda r: r[2] * r[3])
    return x, y, x + width, y + height


def graph_cut(image: np.ndarray, class_map: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Joins the scattered evidence of shallow layers into an object (Simonyan et al., ICLR-W 2014, section 3.2).

    Pixels above the map's 95 % quantile are object and those under its 30 % quantile background; colour models of the
    two and contrast decide on the rest (Boykov and Jolly's cut, with Gaussian mixtures as in GrabCut). The map is
    smoothed before, over a fiftieth of the longer side: most of a scattered map is zero, also between its points.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        class_map: `(H, W)`.

    Returns:
        `(H, W)` bool; for a map without two different values, where it is positive.
    """
    flat = class_map
    class_map = cv2.GaussianBlur(class_map.astype(np.float32), (0, 0), max(class_map.shape) / 50)
    high, low = np.quantile(class_map, 0.95), np.quantile(class_map, 0.30)
    seeds = np.full(class_map.shape, cv2.GC_PR_BGD, np.uint8)
    middle = 0.5 * (high + low)
    seeds[class_map > middle] = cv2.GC_PR_FGD
    seeds[class_map <= low] = cv2.GC_BGD
    seeds[(class_map >= high) & (class_map > low)] = cv2.GC_FGD
    sure = seeds == cv2.GC_FGD
    if np.ptp(flat) == 0 or not sure.any() or not (seeds == cv2.GC_BGD).any():
        return flat > 0
    return _cut(image, seeds, rounds)


def _cut(image: np.ndarray, seeds: np.ndarray, rounds: int) -> np.ndarray:
    """What GrabCut takes for object after some rounds: `(H, W)` bool; it works on the seeds."""
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(image[..., ::-1]),
        seeds,
        (0, 0, 1, 1),  # not read when a mask starts it
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        rounds,
        cv2.GC_INIT_WITH_MASK,
    )
    return (seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD)
