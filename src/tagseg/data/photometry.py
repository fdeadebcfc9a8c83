"""Changes of colour, which leave geometry alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from tagseg.data.views import View

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.3, 0.3, 0.3, 0.1  # as PSA, L2G and their heirs have it


def jitter_colours(view: View, rng: np.random.Generator) -> View:
    """Change brightness, contrast, saturation (by up to 30 %) and hue (a tenth of the circle), in random order.

    Padding changes along with the photograph.
    """
    image = view.image
    for change in rng.permutation(4):
        strength = (BRIGHTNESS, CONTRAST, SATURATION, HUE)[change]
        amount = rng.uniform(-strength, strength)
        image = _turn_hue(image, amount) if change == 3 else _blend(image, change, 1 + amount)
    return replace(view, image=image)


def _blend(image: np.ndarray, change: int, factor: float) -> np.ndarray:
    """Away from black, from the mean grey, or from each pixel's grey."""
    if change == 0:
        return cv2.convertScaleAbs(image, alpha=factor)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if change == 1:
        return cv2.addWeighted(image, factor, np.full_like(image, round(float(grey.mean()))), 1 - factor, 0)
    return cv2.addWeighted(image, factor, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), 1 - factor, 0)


def _turn_hue(image: np.ndarray, turn: float) -> np.ndarray:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(256 * turn) % 256)  # hue is a circle of 256 steps, and so are bytes
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
