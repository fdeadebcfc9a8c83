"""Changes of colour, which leave geometry alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tagseg.data.views import View

JITTER = (0.3, 0.3, 0.3, 0.1)  # of brightness, contrast, saturation and hue, as PSA, L2G and their heirs have it
STRONG = (0.4, 0.4, 0.2, 0.1)  # as self-distilled transformers and ToCo have it


def jitter_colours(view: View, rng: np.random.Generator, strengths: tuple[float, ...] = JITTER) -> View:
    """Changes brightness, contrast, saturation (by up to 30 %) and hue (a tenth of the circle), in random order.

    Padding changes along with the photograph.
    """
    image = view.image
    for change in rng.permutation(4):
        strength = strengths[change]
        amount = rng.uniform(-strength, strength)
        image = _turn_hue(image, amount) if change == 3 else _blend(image, change, 1 + amount)
    return replace(view, image=image)


def distort(view: View, rng: np.random.Generator, *, blur: float, solarise: float = 0.0) -> View:
    """Distorts colours as self-distillation does (Caron et al., ICCV 2021), and ToCo after it.

    There is strong jitter in 4 of 5 views, grey in 1 of 5, blur and solarisation as often as is said.

    Args:
        blur: how often a view is blurred, by a Gaussian of 0.1 to 2 pixels.
        solarise: how often what is brighter than a half is inverted.
    """
    if rng.random() < 0.8:
        view = jitter_colours(view, rng, STRONG)
    image = view.image
    if rng.random() < 0.2:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.1, 2.0))
    if rng.random() < solarise:
        image = np.where(image < 128, image, 255 - image)
    return replace(view, image=image)


def alter(view: View, rng: np.random.Generator, changes: int = 5, strength: float = 1 / 3) -> View:
    """Changes colours so many times, each in one of seven ways, as RandAugment does without what moves pixels (Cubuk et
    al., CVPR-W 2020; with this choice and strength DuPL, CVPR 2024).

    Args:
        strength: of 0 to 1, where a change has one: of fewer bits, and of colour, contrast, brightness and sharpness
            from a tenth to nearly twice as much.
    """
    image, factor = Image.fromarray(view.image), 0.1 + 1.8 * strength
    ways: tuple[Callable[[Image.Image], Image.Image], ...] = (
        ImageOps.autocontrast,
        ImageOps.equalize,
        lambda shown: ImageOps.posterize(shown, max(1, int(6 * strength))),
        lambda shown: ImageEnhance.Color(shown).enhance(factor),
        lambda shown: ImageEnhance.Contrast(shown).enhance(factor),
        lambda shown: ImageEnhance.Brightness(shown).enhance(factor),
        lambda shown: ImageEnhance.Sharpness(shown).enhance(factor),
    )
    for way in rng.integers(len(ways), size=changes):
        image = ways[way](image)
    return replace(view, image=np.asarray(image))


def distort_strongly(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a photograph in other colours, as BECO shows it: Rong et al., CVPR 2023, published code.

    In 4 of 5 photographs brightness and contrast change by up to a fifth, hue by up to 40 degrees, saturation by up to
    an eighth and value by up to a thirteenth of their range; 1 of 5 is grey, and half are blurred, with 3 or 5 pixels.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        rng: of everything random.
    """
    if rng.random() < 0.8:
        contrast, brightness = 1 + rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
        image = np.clip(image * np.float32(contrast) + np.float32(255 * brightness), 0, 255).astype(np.uint8)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int16)
        hsv += np.array([round(rng.uniform(-most, most)) for most in (20, 30, 20)], dtype=np.int16)
        hsv[..., 0] %= 180
        image = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    if rng.random() < 0.2:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.5:
        side = int(rng.choice([3, 5]))
        image = cv2.GaussianBlur(image, (side, side), 0)
    return image


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
