"""Views of a photograph with exact geometry: whatever is done to the image is done to the mask beside it, and
is remembered, so that a map made from the view can be pasted back where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from tagseg.data.geometry import Window
from tagseg.labels import IGNORE


@dataclass(frozen=True)
class ViewSpec:
    """The specification of how training views are cut out of photographs, and of what comes with them.

    side: of the square view, pixels.
    scales: long side of the photograph over `side`, drawn between these two.
    seed: a view depends on the seed, the epoch and the photograph alone.
    masks: gives the path of a sample's *pseudo*-mask, which is cut along; None: none is.
    saliency: whether saliency maps are cut along; every sample must then have one.
    short: whether `scales` are of the photograph's short side; from 1 on nothing is padded.
    mirror: whether half of the views are mirrored.
    jitter: whether colours are changed at random (see `tagseg.data.photometry.jitter_colours`).
    black: whether padding is black instead of the mean colour.
    """

    side: int
    scales: tuple[float, float]
    seed: int
    masks: Callable[[Any], Any] | None = None
    saliency: bool = False
    short: bool = False
    mirror: bool = True
    jitter: bool = False
    black: bool = False


@dataclass(frozen=True)
class View:
    """A window on a (resized, perhaps mirrored) photograph.

    image: `(h, w, 3)` uint8, padded with `fill` where the window leaves the photograph.
    mask: `(h, w)` uint8 class indices, 255 where padded; None when there is none.
    saliency: `(h, w)` uint8, 0 where padded; None when there is none.
    size: `(H, W)` of the resized photograph the window lies on.
    box: `(x0, y0, x1, y1)` of the window on the resized, *unmirrored* photograph; may leave it.
    flipped: whether the window is mirrored left to right.
    """

    image: np.ndarray
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    mask: np.ndarray | None = None
    flipped: bool = False
    saliency: np.ndarray | None = None

    @property
    def window(self) -> Window:
        """Returns the place of the view on the photograph, without its pixels."""
        return Window(self.size, self.box, self.flipped)

    @property
    def inside(self) -> tuple[int, int, int, int]:
        """Returns what of the view is photograph and not padding: y0, y1, x0, x1, pixels."""
        height, width = self.image.shape[:2]
        x0, y0, x1, y1 = self.box
        left, right = max(0, -x0), width - max(0, x1 - self.size[1])
        if self.flipped:
            left, right = width - right, width - left
        return max(0, -y0), height - max(0, y1 - self.size[0]), left, right


def whole(image: np.ndarray, mask: np.ndarray | None = None, saliency: np.ndarray | None = None) -> View:
    """Returns the photograph itself as a view."""
    height, width = image.shape[:2]
    return View(image=image, size=(height, width), box=(0, 0, width, height), mask=mask, saliency=saliency)


def resize(view: View, size: tuple[int, int]) -> View:
    """Resizes a *whole* view to `size` (H, W).

    It takes area averaging when shrinking and bilinear interpolation when enlarging; masks take the nearest pixel.
    """
    if size == view.image.shape[:2]:
        return view
    smooth = cv2.INTER_AREA if size[0] < view.image.shape[0] else cv2.INTER_LINEAR
    image = cv2.resize(view.image, size[::-1], interpolation=smooth)
    mask = None if view.mask is None else cv2.resize(view.mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    saliency = None if view.saliency is None else cv2.resize(view.saliency, size[::-1], interpolation=smooth)
    return replace(view, image=image, mask=mask, saliency=saliency, size=size, box=(0, 0, size[1], size[0]))


def flip(view: View) -> View:
    """Mirrors a view left to right."""
    image, mask, saliency = (
        None if a is None else np.ascontiguousarray(a[:, ::-1]) for a in (view.image, view.mask, view.saliency)
    )
    assert image is not None
    return replace(view, image=image, mask=mask, saliency=saliency, flipped=not view.flipped)


def random_crop(view: View, side: tuple[int, int], rng: np.random.Generator, fill: np.ndarray) -> View:
    """Cuts a window of `side` (h, w) at a random place of an unmirrored whole view, padding what is too small.

    Where the photograph is smaller than the window, it lies at a random place inside it.
    """
    (h, w), (height, width) = side, view.image.shape[:2]
    y0, x0 = (int(rng.integers(min(0, n - k), max(0, n - k) + 1)) for n, k in ((height, h), (width, w)))
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y0 + h, height), min(x0 + w, width)
    inside = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
    source = (slice(top, bottom), slice(left, right))
    image = np.empty((h, w, 3), dtype=np.uint8)
    image[:] = fill
    image[inside] = view.image[source]
    mask = None
    if view.mask is not None:
        mask = np.full((h, w), IGNORE, dtype=np.uint8)
        mask[inside] = view.mask[source]
    saliency = None
    if view.saliency is not None:
        saliency = np.zeros((h, w), dtype=np.uint8)
        saliency[inside] = view.saliency[source]
    return replace(view, image=image, mask=mask, saliency=saliency, box=(x0, y0, x0 + w, y0 + h))


def random_view(
    view: View,
    side: int,
    scales: tuple[float, float],
    rng: np.random.Generator,
    fill: np.ndarray,
    *,
    short: bool = False,
    mirror: bool = True,
) -> View:
    """Returns the usual training view of a whole photograph.

    The photograph's long side (`short`: its short side) is drawn from `scales` x `side`, and a `side` x `side` window
    is cut out and mirrored half of the time unless `mirror` is off.
    """
    measure = min if short else max
    height, width = view.image.shape[:2]
    factor = side * rng.uniform(*scales) / measure(height, width)
    view = resize(view, (max(1, round(height * factor)), max(1, round(width * factor))))
    view = random_crop(view, (side, side), rng, fill)
    return flip(view) if mirror and rng.random() < 0.5 else view
