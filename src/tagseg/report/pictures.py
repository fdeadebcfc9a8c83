"""Small pictures for reports: masks in colour, maps as heat, rows of them side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tagseg.labels import IGNORE


def overlay_mask(image: np.ndarray, mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Returns the photograph with the mask's classes laid over it and their borders drawn white."""
    inside = ((mask > 0) & (mask != IGNORE))[..., None]
    mixed = np.where(inside, 0.45 * image + 0.55 * palette[mask], image * 0.9)
    edges = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    mixed[edges] = 255
    return mixed.astype(np.uint8)


def labelled_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    palette: np.ndarray,
    classes: Sequence[str],
    named: Sequence[int] | None = None,
) -> np.ndarray:
    """Returns the photograph with the mask's classes laid over it, and below it what their colours are called.

    Args:
        image: `(H, W, 3)` uint8.
        mask: `(H, W)`, class c at c + 1.
        palette: `(256, 3)`.
        classes: names; a class beyond them is shown by its number.
        named: the numbers in masks that are named below; None: those that the mask holds.
    """
    laid = overlay_mask(image, mask, palette)
    there = named
    if there is None:
        there = [value for value in np.unique(mask).tolist() if value not in (0, IGNORE)]
    if not there:
        return laid
    names = [classes[value - 1] if value <= len(classes) else str(value) for value in there]
    return np.concatenate([laid, _legend(names, [tuple(palette[value].tolist()) for value in there], image.shape[1])])


def _legend(names: Sequence[str], colours: Sequence[tuple[int, ...]], width: int) -> np.ndarray:
    """A strip of this width with a square of every colour and its name, in as many lines as they need."""
    size = int(np.clip(width / 32, 11, 28))
    font = ImageFont.truetype(_font(), size)
    gap, line = size // 2, size + size // 2
    places, x, y = [], gap, gap // 2
    for name in names:
        needed = size + gap + round(font.getlength(name)) + 2 * gap
        if x > gap and x + needed > width:
            x, y = gap, y + line
        places.append((x, y))
        x += needed
    strip = Image.new("RGB", (width, y + line + gap // 2), "white")
    draw = ImageDraw.Draw(strip)
    for name, colour, (left, top) in zip(names, colours, places, strict=True):
        draw.rectangle((left, top + 1, left + size - 1, top + size), fill=colour, outline="#888888")
        draw.text((left + size + gap, top + size / 2 + 1), name, fill="black", font=font, anchor="lm")
    return np.asarray(strip)


@cache
def _font() -> str:
    """The font that comes with matplotlib, which knows most letters."""
    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def overlay_map(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the photograph with a map `(H, W)` in [0, 1] laid over it as heat."""
    heat = matplotlib.colormaps["inferno"](values)[..., :3] * 255
    return (0.4 * image + 0.6 * heat).astype(np.uint8)


def thumbnail(image: np.ndarray, long_side: int = 220) -> np.ndarray:
    """Shrinks a picture to `long_side`, and never enlarges it."""
    factor = min(1.0, long_side / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def data_uri(image: np.ndarray) -> str:
    """Returns a picture as a JPEG in the text of a page."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=86)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def draw_boxes(
    image: np.ndarray, boxes: list[tuple[tuple[float, float, float, float], str, tuple[int, int, int]]]
) -> np.ndarray:
    """Returns the photograph with boxes `((x0, y0, x1, y1), label, colour)` and their labels."""
    drawn = image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 160))
    size = max(0.4, min(image.shape[:2]) / 800)
    for (x0, y0, x1, y1), label, colour in boxes:
        cv2.rectangle(drawn, (int(x0), int(y0)), (int(x1) - 1, int(y1) - 1), colour, thickness)
        if not label:
            continue
        (width, height), base = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        top = max(0, int(y0) - height - base - 2)
        cv2.rectangle(drawn, (int(x0), top), (int(x0) + width + 4, top + height + base + 2), colour, -1)
        bright = sum(colour) > 380
        place = (int(x0) + 2, top + height + 1)
        cv2.putText(
            drawn, label, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0,) * 3 if bright else (255,) * 3, 1, cv2.LINE_AA
        )
    return drawn
