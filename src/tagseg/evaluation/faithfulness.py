"""Does a map show what the classifier looks at? Hide what it marks, and see what the class score does."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

Score = Callable[[torch.Tensor], torch.Tensor]  # images (N, 3, H, W) -> probability of the class, (N,)


def hide(images: torch.Tensor, maps: torch.Tensor, threshold: float = 0.7) -> torch.Tensor:
    """Hides the pixels of `(B, 3, H, W)` whose map `(B, H, W)` in [0, 1] is above `threshold`.

    They are set to 0, the mean colour. This is the occlusion experiment of LayerCAM (TIP 2021, section IV-C).
    """
    return images * (maps <= threshold)[:, None]


def deletion(image: torch.Tensor, class_map: torch.Tensor, score: Score, steps: int = 20) -> torch.Tensor:
    """Returns the probability of the class while pixels are taken away, strongest first.

    The curve is that of Petsiuk et al., "RISE", BMVC 2018, section 4.2.

    Args:
        image: `(3, H, W)`, normalised; what is taken away becomes 0.
        class_map: `(H, W)`.

    Returns:
        `(steps + 1,)`: at 0 to `steps` parts of the pixels. Lower is better.
    """
    return score(_mixtures(image, torch.zeros_like(image), class_map, steps))


def insertion(image: torch.Tensor, class_map: torch.Tensor, score: Score, steps: int = 20) -> torch.Tensor:
    """Returns the probability of the class while the pixels of a blurred image are made sharp, strongest first.

    Arguments and result are those of `deletion`, but higher is better. The image is blurred with a Gaussian of 11
    pixels and sigma 5, as published for 224 pixels.
    """
    return score(_mixtures(blurred(image), image, class_map, steps))


def area(curve: torch.Tensor) -> float:
    """Returns the area under a curve over equal steps from 0 to 1."""
    return float(torch.trapezoid(curve.float(), dx=1 / (len(curve) - 1)))


def blurred(image: torch.Tensor, size: int = 11, sigma: float = 5.0) -> torch.Tensor:
    """Blurs an image `(3, H, W)` with a Gaussian; the border is repeated."""
    places = torch.arange(size, dtype=image.dtype, device=image.device) - size // 2
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, size)
    padded = F.pad(image[None], (size // 2,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.transpose(2, 3), groups=3)[0]


def _mixtures(start: torch.Tensor, end: torch.Tensor, class_map: torch.Tensor, steps: int) -> torch.Tensor:
    order = class_map.flatten().argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    counts = torch.linspace(0, len(order), steps + 1, device=order.device).round()
    changed = (rank[None] < counts[:, None]).view(steps + 1, 1, *class_map.shape)
    return torch.where(changed, end[None], start[None])
