"""A synthetic set with the disease that this library cures.

Creatures of six classes in three pairs. The two classes of a pair share their body (texture and shape) and their plain
legs; only the head tells them apart. A classifier therefore needs the head alone, and a plain CAM finds little
else: high precision, low recall. Backgrounds co-occur with classes, untagged stones lie about, and several creatures
share a photograph. Masks are exact.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tagseg.data.images import write_mask
from tagseg.files import read_json, write_aside, write_json

CLASSES = ("redfin", "bluefin", "ringhorn", "crosshorn", "dotwing", "barwing")
MARKER = "synthetic.json"  # written last
HABIT = 0.7  # how often a class stands before its pair's own background


def make_synthetic(
    root: Path,
    *,
    train: int = 300,
    val: int = 100,
    seed: int = 0,
    sides: tuple[int, int] = (96, 144),
    advance: Callable[[int, str], None] | None = None,
) -> Path:
    """Writes the synthetic set in the folder layout.

    The layout is `images/ masks/ labels.csv classes.txt train.txt val.txt`. A set that is whole and was made with the
    same arguments is left as it is.

    Args:
        root: folder to write into.
        train, val: how many photographs of each split.
        seed: the same seed gives the same set, photograph by photograph.
        sides: range of heights and widths, pixels.

    Returns:
        `root`.
    """
    return write_set(root, draw, CLASSES, train=train, val=val, seed=seed, sides=sides, advance=advance)


def write_set(
    root: Path,
    draw: Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, np.ndarray]],
    names: tuple[str, ...],
    *,
    train: int,
    val: int,
    seed: int,
    sides: tuple[int, int],
    advance: Callable[[int, str], None] | None,
) -> Path:
    """Writes what `draw` draws in the folder layout; `names` are its classes (see `make_synthetic` for the others)."""
    recipe = {"classes": list(names), "train": train, "val": val, "seed": seed, "sides": list(sides)}
    if (root / MARKER).exists() and read_json(root / MARKER) == recipe:
        return root
    (root / MARKER).unlink(missing_ok=True)
    (root / "masks").mkdir(parents=True, exist_ok=True)  # first, so that a set half made can be told from other folders
    rows = []
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for number in range(train + val):
        split = "train" if number < train else "val"
        name = f"{split}_{number:05d}"
        image, mask = draw(np.random.default_rng((seed, number)), sides)
        _write_png(root / "images" / f"{name}.png", image)
        write_mask(root / "masks" / f"{name}.png", mask)
        tags = [names[c - 1] for c in np.unique(mask) if c]
        rows.append((name, ";".join(tags)))
        splits[split].append(name)
        if advance is not None:
            advance(number + 1, "")
    with write_aside(root / "labels.csv") as aside, aside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels"), *rows])
    for split, lines in (*splits.items(), ("classes", ["background", *names])):
        with write_aside(root / f"{split}.txt") as aside:
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(root / MARKER, recipe)
    return root


def draw(rng: np.random.Generator, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws one photograph `(H, W, 3)` uint8 and its mask `(H, W)` uint8."""
    height, width = (int(rng.integers(sides[0], sides[1] + 1)) for _ in range(2))
    count = int(rng.choice([0, 1, 2, 3], p=[0.05, 0.5, 0.33, 0.12]))
    classes = rng.integers(0, len(CLASSES), count)
    habitat = int(classes[0]) // 2 if count and rng.random() < HABIT else int(rng.integers(0, 3))
    image = _background(rng, height, width, habitat)
    mask = np.zeros((height, width), dtype=np.uint8)
    for _ in range(int(rng.integers(0, 4))):
        _stone(rng, image)
    for label in classes:
        _creature(rng, image, mask, int(label))
    light = rng.uniform(0.8, 1.15)
    noisy = image.astype(np.float32) * light + rng.normal(0, 6, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def _background(rng: np.random.Generator, height: int, width: int, habitat: int) -> np.ndarray:
    """Three textures: grass (fine), water (horizontal waves), rock (coarse)."""
    tint: np.ndarray = np.array([(70, 120, 60), (60, 100, 140), (130, 115, 95)][habitat], dtype=np.float32)
    tint = tint + rng.normal(0, 10, 3)
    cells = [
        (height // 3, width // 3),
        (height // 4, max(2, width // 24)),
        (max(2, height // 16), max(2, width // 16)),
    ]
    grain: np.ndarray = rng.normal(0, 1, cells[habitat]).astype(np.float32)
    grain = cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(tint + 22 * grain[..., None], 0, 255)


def _stone(rng: np.random.Generator, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
    axes = (int(rng.integers(4, 14)), int(rng.integers(4, 10)))
    shape = cv2.ellipse(np.zeros((height, width), np.uint8), centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    image[shape > 0] = rng.integers(60, 200, 1) + rng.normal(0, 8, 3)


def _creature(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, label: int) -> None:
    """Legs, body, head, in this order; what lies in front hides what lies behind."""
    height, width = mask.shape
    length = rng.uniform(0.3, 0.5) * min(height, width)
    places = rng.uniform((0.2, 0.3), (0.8, 0.7), (8, 2)) * (width, height)
    crowding = [mask[_around(place, length, mask.shape)].astype(bool).mean() for place in places]
    cx, cy = places[int(np.argmin(crowding))]
    facing = 1 if rng.random() < 0.5 else -1
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (xs - cx) / length * facing, (ys - cy) / length  # body coordinates: head at u = +0.75

    legs = (np.abs(np.abs(u) - 0.35) < 0.07) & (v > 0) & (v < 0.75)
    body = (u / 0.65) ** 2 + (v / (0.42, 0.34, 0.5)[label // 2]) ** 2 < 1
    head = (u - 0.72) ** 2 + (v + 0.22) ** 2 < 0.24**2
    image[legs] = rng.uniform(40, 170, 3)
    image[body] = _body_texture(label // 2, u[body], v[body], rng)
    image[head] = _head_texture(label, u[head] - 0.72, v[head] + 0.22)
    mask[legs | body | head] = label + 1


def _around(place: np.ndarray, length: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    (x, y), (height, width) = place, shape
    return (
        slice(int(max(0, y - length * 0.5)), int(min(height, y + length * 0.7)) + 1),
        slice(int(max(0, x - length)), int(min(width, x + length)) + 1),
    )


def _body_texture(pair: int, u: np.ndarray, v: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    light, dark = rng.uniform(150, 220, 3), rng.uniform(50, 120, 3)
    if pair == 0:
        on = np.sin(22 * u) > 0  # stripes
    elif pair == 1:
        on = np.sin(20 * u) * np.sin(20 * v) > 0.3  # dots
    else:
        on = np.sin(14 * (u + v)) > 0  # bands aslant
    return np.where(on[:, None], light, dark)


def _head_texture(label: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = np.hypot(u, v)
    marks = (
        (radius < 0.0, (225, 50, 40), (225, 50, 40)),
        (radius < 0.0, (40, 70, 225), (40, 70, 225)),
        (np.abs(radius - 0.13) < 0.05, (245, 225, 60), (60, 40, 90)),
        ((np.abs(u) < 0.05) | (np.abs(v) < 0.05), (245, 225, 60), (60, 40, 90)),
        (radius < 0.1, (250, 250, 250), (20, 150, 140)),
        (np.abs(v) < 0.07, (250, 250, 250), (20, 150, 140)),
    )
    on, mark, ground = marks[label]
    return np.where(on[:, None], np.array(mark, float), np.array(ground, float))


def _write_png(path: Path, image: np.ndarray) -> None:
    with write_aside(path) as aside:
        Image.fromarray(image).save(aside, format="PNG", compress_level=1)


if __name__ == "__main__":  # python -m tagseg.data.synthetic FOLDER: the set of the benchmarks, 500 and 100 photographs
    parser = argparse.ArgumentParser(description="Draws 500 training and 100 evaluation photographs with masks.")
    parser.add_argument("folder", type=Path)
    make_synthetic(parser.parse_args().folder, train=500, val=100)
