"""A set of drawn still lifes for `tagseg demo`: fruit in the light of a window, with shadows, on cloth, wood and grass.

Nothing is downloaded and nothing is a photograph; but objects are round, lit, shaded and in front of each other, they
have speckles and stalks, and what lies under them has a grain of all sizes, as natural grounds have. Masks are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from tagseg.data.synthetic import write_set

CLASSES = ("apple", "lemon", "pear", "plum", "orange", "cucumber")
# width and height over the size, colour, how much it varies, speckles, gloss
_FRUIT = (
    ((1.0, 0.95), (186, 38, 42), 22, 0.08, 0.5),
    ((1.15, 0.8), (232, 205, 60), 12, 0.12, 0.35),
    ((0.85, 1.2), (158, 176, 64), 16, 0.25, 0.25),
    ((0.85, 0.8), (84, 44, 104), 12, 0.05, 0.4),
    ((1.0, 1.0), (235, 132, 32), 12, 0.3, 0.3),
    ((1.9, 0.5), (62, 112, 52), 14, 0.35, 0.3),
)


def make_still_lifes(
    root: Path,
    *,
    train: int = 300,
    val: int = 100,
    seed: int = 0,
    sides: tuple[int, int] = (112, 160),
    advance: Callable[[int, str], None] | None = None,
) -> Path:
    """Writes the set in the folder layout; its arguments are those of `tagseg.data.synthetic.make_synthetic`."""
    return write_set(root, draw, CLASSES, train=train, val=val, seed=seed, sides=sides, advance=advance)


def draw(rng: np.random.Generator, sides: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws one picture `(H, W, 3)` uint8 and its mask `(H, W)` uint8."""
    height, width = (int(rng.integers(sides[0], sides[1] + 1)) for _ in range(2))
    image = _ground(rng, height, width)
    mask = np.zeros((height, width), dtype=np.uint8)
    light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.8, -0.3), 0.75])
    light /= np.linalg.norm(light)
    count = int(rng.choice([0, 1, 2, 3], p=[0.05, 0.5, 0.33, 0.12]))
    for label in rng.integers(0, len(CLASSES), count):
        _fruit(rng, image, mask, int(label), light)
    soft = cv2.GaussianBlur(image, (0, 0), 0.6)
    noisy = soft * rng.uniform(0.85, 1.1) + rng.normal(0, 4, image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), mask


def _grain(rng: np.random.Generator, height: int, width: int, stretch: tuple[float, float] = (1, 1)) -> np.ndarray:
    """Noise of all sizes, the larger the stronger, as natural surfaces have it: `(H, W)`, deviation 1."""
    total: np.ndarray = np.zeros((height, width), dtype=np.float32)
    for octave in range(5):
        cells = [max(2, round(2**octave * 3 * s)) for s in stretch]
        noise = rng.normal(0, 1, cells).astype(np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) / 1.6**octave
    return (total - total.mean()) / (total.std() + 1e-6)


def _ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Cloth, wood or grass, darker away from the light."""
    kind = int(rng.integers(0, 3))
    tint = np.array([(176, 172, 168), (150, 112, 78), (88, 118, 62)][kind], dtype=np.float32) + rng.normal(0, 10, 3)
    stretch = [(1.0, 1.0), (0.5, 4.0), (3.0, 3.0)][kind]
    grain = _grain(rng, height, width, stretch if rng.random() < 0.5 else stretch[::-1])
    fall = np.linspace(rng.uniform(0.85, 1.1), rng.uniform(0.7, 1.0), height, dtype=np.float32)[:, None]
    return (tint + 16 * grain[..., None]) * fall[..., None]


def _fruit(rng: np.random.Generator, image: np.ndarray, mask: np.ndarray, label: int, light: np.ndarray) -> None:
    height, width = mask.shape
    (across, down), colour, varied, speckles, gloss = _FRUIT[label]
    size = rng.uniform(0.16, 0.27) * min(height, width)
    places = rng.uniform((0.2, 0.25), (0.8, 0.8), (8, 2)) * (width, height)
    covered = [
        mask[int(y - size) : int(y + size), int(max(0, x - size)) : int(x + size)].astype(bool) for x, y in places
    ]
    cx, cy = places[int(np.argmin([c.mean() if c.size else 1 for c in covered]))]
    angle = rng.uniform(-0.5, 0.5) if label != 5 else rng.uniform(0, np.pi)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = (xs - cx) / size, (ys - cy) / size
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / across
    v = (-dx * np.sin(angle) + dy * np.cos(angle)) / down
    if label == 2:  # a pear is narrow above
        u = u * (1.25 - 0.45 * np.clip(v, -1, 1))
    square = u**2 + v**2
    inside = square < 1
    # the shadow falls away from the light
    shadow = ((dx + 0.6 * light[0]) / across) ** 2 + ((dy - 0.35) / (0.75 * down)) ** 2
    image[:] = image * (1 - 0.45 * np.exp(-np.maximum(shadow, 0) * 1.2) * ~inside)[..., None]
    # a sphere's normal in every point, Lambert's law, and a highlight
    normal = np.stack([u, v, np.sqrt(np.clip(1 - square, 0, 1))], axis=-1)
    lit = np.clip(normal @ light, 0, 1)
    skin = np.array(colour, dtype=np.float32) + rng.normal(0, varied / 2, 3)
    texture = varied * _grain(rng, height, width, (2, 2)) - 60 * speckles * (rng.random((height, width)) < 0.12)
    shaded = (skin + texture[..., None]) * (0.35 + 0.75 * lit)[..., None]
    shaded += 160 * gloss * np.clip(lit, 0, 1)[..., None] ** 24
    image[inside] = shaded[inside]
    mask[inside] = label + 1
    if label in (0, 2):
        stalk = (np.abs(u - 0.1 * (v + 1)) < 0.06) & (v > -1.25) & (v < -0.8)
        image[stalk], mask[stalk] = (74, 54, 34), label + 1
