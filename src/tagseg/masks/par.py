"""Scores that flow between pixels of like colour.

PAMR: Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, section 3.2.
PAR: Ru et al., "Learning Affinity from Attention" (AFA), CVPR 2022, section 3.4.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numba
import numpy as np
import torch
from torch.nn import functional as F

from tagseg.kernels import compiled, run
from tagseg.masks.checks import check_scores
from tagseg.masks.vectors import exp

DILATIONS = (1, 2, 4, 8, 12, 24)
_OFFSETS = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
_SHARPNESS = 0.3  # both kernels divide by 0.3 standard deviations
_POSITION_WEIGHT = 0.01


def pixel_adaptive_refinement(
    images: torch.Tensor,
    scores: torch.Tensor,
    *,
    iterations: int = 10,
    dilations: tuple[int, ...] = DILATIONS,
    normalised: bool = True,
) -> torch.Tensor:
    """Lets scores flow between pixels of like colour (PAR).

    Every pixel takes the weighted mean of its 8 neighbours at each dilation, `iterations` times. The weights are
    `softmax(colour) + 0.01 softmax(position)`, colour and position being minus the squared difference over
    0.3 standard deviations of the neighbourhood; any intensity scale will do.

    The published weights sum to 1.01, so that scores grow by a tenth in ten iterations, which matters to whoever
    thresholds them afterwards. By default they are normalised; `normalised=False` keeps the published sum.

    Args:
        images: `(B, 3, H, W)` float.
        scores: `(B, K, h, w)` float, resized to the images (bilinear, corners aligned).

    Returns:
        `(B, K, H, W)` in the scores' dtype. Peak memory: `8 * len(dilations)` weights and `2 K` scores a pixel.
    """
    scores = _at_size(scores, images)
    weights = _weights(images.to(scores.dtype), dilations, _colour).softmax(dim=1)
    weights += _POSITION_WEIGHT * _position(dilations).to(weights)[:, None, None]
    if normalised:
        weights /= 1 + _POSITION_WEIGHT
    return _spread(scores, weights, dilations, iterations)


def pixel_adaptive_mask_refinement(
    images: torch.Tensor, scores: torch.Tensor, *, iterations: int = 10, dilations: tuple[int, ...] = DILATIONS
) -> torch.Tensor:
    """Lets scores flow between pixels of like colour by PAMR, from which PAR comes.

    The weights are one softmax over `-|difference| / (0.1 deviations)`, the mean of the channels. Where the deviation
    is taken, the pixel itself counts once for every dilation. Arguments and result are those of
    `pixel_adaptive_refinement` without `compat`.
    """
    scores = _at_size(scores, images)
    weights = _weights(images.to(scores.dtype), dilations, _mask_colour).softmax(dim=1)
    return _spread(scores, weights, dilations, iterations)


def _at_size(scores: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    if scores.shape[-2:] == images.shape[-2:]:
        return scores
    return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=True)


def _spread(scores: torch.Tensor, weights: torch.Tensor, dilations: tuple[int, ...], iterations: int) -> torch.Tensor:
    for _ in range(iterations):
        refined = torch.zeros_like(scores)
        for weight, neighbour in zip(weights.unbind(1), _neighbours(scores, dilations), strict=True):
            refined.addcmul_(weight[:, None], neighbour)
        scores = refined
    return scores


def _neighbours(values: torch.Tensor, dilations: tuple[int, ...]) -> list[torch.Tensor]:
    """Shifted windows on `(B, K, H, W)`, dilation by dilation; borders repeat. Windows share one padded copy each."""
    height, width = values.shape[-2:]
    windows = []
    for d in dilations:
        padded = F.pad(values, (d, d, d, d), mode="replicate")
        windows += [
            padded[..., d + d * dy : d + d * dy + height, d + d * dx : d + d * dx + width] for dy, dx in _OFFSETS
        ]
    return windows


def _weights(
    images: torch.Tensor, dilations: tuple[int, ...], term: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """`(B, n, H, W)`: minus the mean over channels of `term(channel, neighbours)`."""
    colour = images.new_zeros(())
    for channel in images.split(1, dim=1):
        around = torch.cat(_neighbours(channel, dilations), dim=1)
        colour = colour - term(channel, around) / images.shape[1]
    return colour


def _colour(channel: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    return ((around - channel) / (around.std(dim=1, keepdim=True) + 1e-8) / _SHARPNESS).square()


def _mask_colour(channel: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    with_centres = torch.cat([around, channel.expand(-1, around.shape[1] // len(_OFFSETS), -1, -1)], dim=1)
    return (around - channel).abs() / (0.1 * with_centres.std(dim=1, keepdim=True) + 1e-8)


def _position(dilations: tuple[int, ...]) -> torch.Tensor:
    """`(n,)`, adding up to 1."""
    distance = torch.tensor([d * (dy * dy + dx * dx) ** 0.5 for d in dilations for dy, dx in _OFFSETS])
    return (-((distance / (distance.std() + 1e-8) / _SHARPNESS) ** 2)).softmax(0)


def refine_par(
    image: np.ndarray,
    scores: np.ndarray,
    *,
    long_side: int = 256,
    iterations: int = 10,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """Refines scores by PAR: `(H, W, 3)` uint8 and `(K + 1, H, W)` -> scores of the same shape.

    As in the published label refinement it works below full size (there: half of 448 pixels), because its widest
    neighbour is 24 pixels away: the long side is brought down to `long_side`, never up.

    Args:
        device: "cpu" (compiled kernels) or a GPU (torch).
        threads: on the CPU, 1 for one core without Python's lock, or None for as many as torch uses.

    Raises:
        BadInput: sizes that differ, or scores that are not finite.
    """
    return _refine(image, scores, False, long_side, iterations, device, threads)


def refine_pamr(
    image: np.ndarray,
    scores: np.ndarray,
    *,
    long_side: int = 256,
    iterations: int = 10,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """Refines scores by PAMR: `(H, W, 3)` uint8 and `(K + 1, H, W)` -> scores of the same shape.

    The arguments are those of `refine_par`.
    """
    return _refine(image, scores, True, long_side, iterations, device, threads)


def _refine(
    image: np.ndarray,
    scores: np.ndarray,
    masks: bool,
    long_side: int,
    iterations: int,
    device: torch.device | str,
    threads: int | None,
) -> np.ndarray:
    image, scores = check_scores(image, scores)
    height, width = image.shape[:2]
    factor = min(1.0, long_side / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    pixels: np.ndarray = image.astype(np.float32)
    rough = scores
    if factor < 1:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        rough = np.stack([cv2.resize(s, size, interpolation=cv2.INTER_AREA) for s in scores])
    if torch.device(device).type == "cpu":
        fine = compiled_refinement(pixels, rough, masks, iterations, threads)
    else:
        function = pixel_adaptive_mask_refinement if masks else pixel_adaptive_refinement
        inputs = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device), torch.from_numpy(rough)[None].to(device)
        with torch.inference_mode():
            fine = function(*inputs, iterations=iterations)[0].cpu().numpy()
    if factor == 1:
        return fine
    return np.stack([cv2.resize(s, (width, height), interpolation=cv2.INTER_LINEAR) for s in fine])


def compiled_refinement(
    image: np.ndarray, scores: np.ndarray, masks: bool, iterations: int, threads: int | None
) -> np.ndarray:
    """Refines scores `(K, H, W)` along an image `(H, W, 3)`, both float32, by compiled kernels.

    The weights are the normalised ones of PAR, or those of PAMR (`masks`).
    """
    kernels = _serial if threads == 1 else _parallel
    margin = max(DILATIONS)
    offsets = np.array([(d * dy, d * dx) for d in DILATIONS for dy, dx in _OFFSETS])
    position = np.zeros(0, np.float32) if masks else _position(DILATIONS).numpy() * np.float32(_POSITION_WEIGHT)
    weights = np.empty((len(offsets), *image.shape[:2]), np.float32)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    padded = np.pad(planes, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    centres = len(DILATIONS) if masks else 0
    run(kernels, "weigh", padded, offsets, position, np.int64(margin), np.int64(centres), weights)
    for _ in range(iterations):
        padded = np.pad(scores, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
        scores = np.empty_like(scores)
        run(kernels, "spread", padded, weights, offsets, np.int64(margin), scores)
    return scores


def _weigh(
    planes: np.ndarray, offsets: np.ndarray, position: np.ndarray, margin: int, centres: int, weights: np.ndarray
) -> None:
    """Weights of every pixel's neighbours; `centres` is how often the pixel itself counts in the deviation (PAMR).

    Loops run along rows: what is summed is summed over neighbours, one after the other, whatever the instructions.
    """
    count, height, width = weights.shape
    for y in numba.prange(height):
        values = np.empty((count, width), np.float32)
        colour = np.empty((count, width), np.float32)
        total, square, scale = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
        for n in range(count):
            line = colour[n]
            for x in range(width):
                line[x] = np.float32(0)
        for channel in range(3):
            own = planes[channel, y + margin, margin : margin + width]
            for x in range(width):
                total[x] = np.float32(0)
            for n in range(count):  # differences from the pixel itself: no digits are lost
                first = margin + offsets[n, 1]
                line, there = values[n], planes[channel, y + margin + offsets[n, 0], first : first + width]
                for x in range(width):
                    line[x] = there[x] - own[x]
                    total[x] += line[x]
            for x in range(width):
                total[x] /= np.float32(count + centres)  # the mean
                square[x] = np.float32(centres) * total[x] * total[x]
            for n in range(count):
                line = values[n]
                for x in range(width):
                    square[x] += (line[x] - total[x]) * (line[x] - total[x])
            for x in range(width):
                deviation = np.sqrt(square[x] / np.float32(count + centres - 1))
                if centres:
                    scale[x] = np.float32(1) / (np.float32(1e-8) + np.float32(0.1) * deviation)
                else:
                    scale[x] = np.float32(1) / (deviation + np.float32(1e-8)) / np.float32(_SHARPNESS)
            for n in range(count):
                line, so_far = values[n], colour[n]
                if centres:
                    for x in range(width):
                        so_far[x] -= abs(line[x]) * scale[x]
                else:
                    for x in range(width):
                        so_far[x] -= (line[x] * scale[x]) * (line[x] * scale[x])
        highest = scale
        for x in range(width):
            highest[x] = colour[0, x]
            total[x] = np.float32(0)
        for n in range(1, count):
            line = colour[n]
            for x in range(width):
                highest[x] = line[x] if line[x] > highest[x] else highest[x]
        for n in range(count):
            line = colour[n]
            for x in range(width):
                line[x] = exp((line[x] - highest[x]) / np.float32(3))
                total[x] += line[x]
        for n in range(count):
            line, final = colour[n], weights[n, y]
            if centres:
                for x in range(width):
                    final[x] = line[x] / total[x]
            else:
                for x in range(width):
                    final[x] = (line[x] / total[x] + position[n]) / np.float32(1 + _POSITION_WEIGHT)


def _spread_rows(padded: np.ndarray, weights: np.ndarray, offsets: np.ndarray, margin: int, scores: np.ndarray) -> None:
    count, height, width = scores.shape
    for y in numba.prange(height):
        for k in range(count):  # one row's weights stay at hand for all scores
            line = scores[k, y]
            for x in range(width):
                line[x] = np.float32(0)
            for n in range(len(offsets)):
                first = margin + offsets[n, 1]
                there, weight = padded[k, y + margin + offsets[n, 0], first : first + width], weights[n, y]
                for x in range(width):
                    line[x] += weight[x] * there[x]


_KERNELS: dict[str, Callable[..., None]] = {"weigh": _weigh, "spread": _spread_rows}
_parallel, _serial = compiled(_KERNELS, True, reordered=False), compiled(_KERNELS, False, reordered=False)
