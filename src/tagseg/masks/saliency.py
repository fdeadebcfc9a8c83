"""Where the eye goes, whatever it sees: saliency maps without training, from a network of one's own, and their use as
background score.

The built-in one is MB+: Zhang et al., "Minimum Barrier Salient Object Detection at 80 FPS", ICCV 2015. A pixel is
salient if every way from it to the border of the photograph crosses a wide range of values, and if its colour is none
of the border's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import torch
from skimage.morphology import disk, reconstruction

from tagseg.errors import BadInput

LONG_SIDE = 300  # pixels at which MB+ works
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def minimum_barrier_saliency(image: np.ndarray) -> np.ndarray:
    """Computes the saliency MB+ with its post-processing.

    `(H, W, 3)` uint8 RGB -> `(H, W)` float32 in [0, 1]. A photograph without any contrast has no salient pixel.
    """
    height, width = image.shape[:2]
    factor = min(1.0, LONG_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)
    barrier = np.sum([_barrier_distance(np.ascontiguousarray(lab[..., c])) for c in range(3)], axis=0)
    saliency = _scaled(_scaled(barrier) + _scaled(_unlike_borders(lab)))
    return cv2.resize(_sharpened(saliency), (width, height), interpolation=cv2.INTER_LINEAR)


def _scaled(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


@numba.njit(cache=True, nogil=True)
def _barrier_distance(values: np.ndarray) -> np.ndarray:
    """Smallest range of values on a way to the border (section 3.1), by raster scans to and fro (algorithm 1)."""
    height, width = values.shape
    distance = np.full((height, width), np.float32(1e9))
    distance[0], distance[-1], distance[:, 0], distance[:, -1] = 0, 0, 0, 0
    upper, lower = values.copy(), values.copy()
    for scan in range(4):
        step = 1 if scan % 2 == 0 else -1
        for row in range(height):
            y = row if step == 1 else height - 1 - row
            for column in range(width):
                x = column if step == 1 else width - 1 - column
                for neighbour in range(2):
                    v, u = (y - step, x) if neighbour == 0 else (y, x - step)
                    if 0 <= v < height and 0 <= u < width:
                        high = max(upper[v, u], values[y, x])
                        low = min(lower[v, u], values[y, x])
                        if high - low < distance[y, x]:
                            distance[y, x], upper[y, x], lower[y, x] = high - low, high, low
    return distance


def _unlike_borders(lab: np.ndarray) -> np.ndarray:
    """Mahalanobis distance to the colours of each border; the largest of the four is left out, for the object may touch
    one border (section 3.3)."""
    band = max(1, round(0.1 * min(lab.shape[:2])))
    total = strongest = np.zeros(lab.shape[:2], np.float32)
    for border in (lab[:band], lab[-band:], lab[:, :band], lab[:, -band:]):
        colours = border.reshape(-1, 3)
        spread = np.cov(colours.T) if len(colours) > 1 else np.zeros((3, 3))
        inverse = np.linalg.inv(spread + 1e-2 * np.eye(3)).astype(np.float32)
        away = lab - colours.mean(axis=0)
        distance = _scaled(np.sqrt(np.einsum("hwi,ij,hwj->hw", away, inverse, away).clip(0)))
        total, strongest = total + distance, np.maximum(strongest, distance)
    return total - strongest


def _sharpened(saliency: np.ndarray) -> np.ndarray:
    """Small specks closed, the centre preferred, the contrast raised (section 3.4)."""
    radius = max(1, round(0.02 * np.sqrt(saliency.mean()) * 300))
    element = disk(min(radius, 15))
    opened = reconstruction(cv2.erode(saliency, element), saliency, method="dilation")
    closed = reconstruction(cv2.dilate(opened, element), opened, method="erosion").astype(np.float32)
    height, width = saliency.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    middle = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    centred = _scaled(closed) * (1 - middle / max(float(middle.max()), 1) * 0.5)
    return (1 / (1 + np.exp(-10 * (_scaled(centred) - 0.5)))).astype(np.float32) if centred.any() else centred


def load_saliency_network(path: Path, side: int = 320, *, program: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a salient-object network from a file: `.onnx`, or a program of torch.export (`.pt2`) or TorchScript (else).

    An ONNX file is data. A program is executed: TorchScript may write files, and torch.export evaluates expressions and
    calls functions that the file names. It is opened only if `program` says that whoever made it is trusted.

    The network must take `(1, 3, side, side)` RGB, normalised by the mean and deviation of ImageNet; of what it gives,
    the first map counts, as probabilities if it is within [0, 1] and else as logits.

    Returns:
        `(H, W, 3)` uint8 -> `(H, W)` float32 in [0, 1].

    Raises:
        BadInput: the file cannot be read, is a program that nobody trusted, or gives no map.
    """
    if not path.is_file():
        raise BadInput(f"{path}: there is no such saliency network; give an .onnx file.")
    if path.suffix != ".onnx" and not program:
        raise BadInput(
            f"{path}: this file is a program, which may do anything when it is opened; export the network as .onnx, or "
            "set data.saliency_program=true if you trust whoever made it."
        )
    try:
        if path.suffix == ".onnx":
            network: Any = cv2.dnn.readNetFromONNX(str(path))
        else:
            network = torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(str(path), "cpu")
    except Exception as error:  # the three readers have no common one
        raise BadInput(f"{path}: this saliency network cannot be read ({str(error)[:200]}).") from error

    def saliency(image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        pixels = ((small - _MEAN) / _STD).transpose(2, 0, 1)[None]
        if path.suffix == ".onnx":
            network.setInput(pixels)
            found = network.forward()
        else:
            with torch.inference_mode():
                found = network(torch.from_numpy(pixels))
        while isinstance(found, (list, tuple)):
            found = found[0]
        values = np.asarray(found, dtype=np.float32)
        if values.ndim < 2 or min(values.shape[-2:]) < 2:
            raise BadInput(f"{path}: this network gives {values.shape}, not a map; export one that ends in a map.")
        values = values.reshape(-1, *values.shape[-2:])[0]
        if values.min() < 0 or values.max() > 1:
            values = 1 / (1 + np.exp(-values))
        return cv2.resize(values, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)

    return saliency


def with_saliency_background(maps: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Puts what is not salient in front, as the score of the background.

    `(K, H, W)` and `(H, W)`, both in [0, 1] -> `(K + 1, H, W)`.
    """
    if maps.shape[1:] != saliency.shape:
        raise BadInput(f"the maps are {maps.shape[1:]} and the saliency {saliency.shape}; resize them to one size.")
    return np.concatenate([1 - saliency[None].astype(maps.dtype), maps])


def ignore_conflicts(
    labels: np.ndarray, maps: np.ndarray, saliency: np.ndarray, *, smallest: float = 0.01
) -> np.ndarray:
    """Marks as unknown the pixels at which maps and saliency contradict each other.

    The rules are those of OAA's published code.

    Args:
        labels: `(H, W)` uint8 pseudo-mask.
        maps: `(K, H, W)` in [0, 1].
        saliency: `(H, W)` in [0, 1].
        smallest: share of the photograph below which all objects together are not believed.

    Returns:
        `labels` with 255 where two scores exceed 0.9, the background's (1 - saliency) among them; where background is
        salient (32 of 255 levels) or a map exceeds 0.8; and everywhere if hardly any object is left.
    """
    mask = labels.copy()
    mask[(with_saliency_background(maps, saliency) > 0.9).sum(axis=0) > 1] = 255
    conflict = np.maximum(saliency * 255, 255 * (maps > 0.8).max(axis=0, initial=False)) >= 32
    mask[(mask == 0) & conflict] = 255
    objects = (mask != 0) & (mask != 255)
    return np.full_like(mask, 255) if objects.sum() < smallest * mask.size else mask


def oaa_scores(maps: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Returns the scores that OAA takes the largest of.

    Map values under 0.3 count as 0, background is `1 - saliency`.
    """
    return with_saliency_background(np.where(maps < 0.3, 0, maps), saliency)
