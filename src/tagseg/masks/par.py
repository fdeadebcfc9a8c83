"""PAR, pixel-adaptive refinement: Ru et al., "Learning Affinity from Attention" (AFA), CVPR 2022, section 3.4."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

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
    compat: Literal["default", "official"] = "default",
) -> torch.Tensor:
    """Let scores flow between pixels of like colour.

    Every pixel takes the weighted mean of its 8 neighbours at each dilation, `iterations` times. The weights are
    `softmax(colour) + 0.01 softmax(position)`, colour and position being minus the squared difference over
    0.3 standard deviations of the neighbourhood; any intensity scale will do.

    The published weights sum to 1.01, so that scores grow by a tenth in ten iterations, which matters to whoever
    thresholds them afterwards. By default they are normalised; `compat="official"` keeps the sum.

    Args:
        images: `(B, 3, H, W)` float.
        scores: `(B, K, h, w)` float, resized to the images (bilinear, corners aligned).

    Returns:
        `(B, K, H, W)` in the scores' dtype. Peak memory: `8 * len(dilations)` weights and `2 K` scores a pixel.
    """
    height, width = images.shape[-2:]
    if scores.shape[-2:] != images.shape[-2:]:
        scores = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=True)
    weights = _weights(images.to(scores.dtype), dilations)
    if compat == "default":
        weights /= 1 + _POSITION_WEIGHT
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


def _weights(images: torch.Tensor, dilations: tuple[int, ...]) -> torch.Tensor:
    """`(B, n, H, W)`: colour and position weights of the n neighbours of every pixel."""
    colour = images.new_zeros(())
    for channel in images.split(1, dim=1):
        around = torch.cat(_neighbours(channel, dilations), dim=1)
        spread = around.std(dim=1, keepdim=True)
        difference = (around - channel).abs_() / (spread + 1e-8) / _SHARPNESS
        colour = colour - difference.square_() / 3
    distance = torch.tensor([d * (dy * dy + dx * dx) ** 0.5 for d in dilations for dy, dx in _OFFSETS])
    position = -((distance / (distance.std() + 1e-8) / _SHARPNESS) ** 2)
    position = position.softmax(0).to(images)
    return colour.softmax(dim=1) + _POSITION_WEIGHT * position[None, :, None, None]


def refine_par(
    image: np.ndarray,
    scores: np.ndarray,
    *,
    long_side: int = 256,
    iterations: int = 10,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """PAR as a refinement: `(H, W, 3)` uint8 and `(K + 1, H, W)` -> scores of the same shape.

    As in the published label refinement it works below full size (there: half of 448 pixels), because its widest
    neighbour is 24 pixels away: the long side is brought down to `long_side`, never up.
    """
    height, width = image.shape[:2]
    factor = min(1.0, long_side / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float()
    rough = torch.from_numpy(np.ascontiguousarray(scores)).to(device)[None].float()
    if factor < 1:
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        rough = F.interpolate(rough, size=size, mode="bilinear", antialias=True, align_corners=False)
    with torch.inference_mode():
        fine = pixel_adaptive_refinement(pixels, rough, iterations=iterations)
        return F.interpolate(fine, size=(height, width), mode="bilinear", align_corners=False)[0].cpu().numpy()
