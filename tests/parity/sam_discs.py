"""A stand-in for SAM's decoder that anybody can compute: around every point three discs, believed more or less."""

import numpy as np


def discs(points: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """`(n, 2)` x, y in pixels -> logits `(n, 3, H, W)` and beliefs `(n, 3)`, float32."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    away = np.hypot(x - points[:, 0, None, None], y - points[:, 1, None, None])[:, None]
    radius = np.array([3.0, 7.0, 20.0])[:, None, None] + (points.sum(axis=1) % 5)[:, None, None, None]
    sharpness = 2 + (points[:, 0] % 7)[:, None, None, None] * np.array([4.0, 1.5, 3.0])[:, None, None]
    beliefs = 0.9 + 0.08 * np.sin(points[:, 0, None] * [0.3, 0.7, 1.1] + points[:, 1, None])
    return (sharpness * (radius - away)).astype(np.float32), beliefs.astype(np.float32)
