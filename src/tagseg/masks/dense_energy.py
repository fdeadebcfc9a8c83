"""The dense energy regulariser: Tang et al., "On Regularized Losses for Weakly-supervised CNN Segmentation", ECCV
2018, equation 10, as AFA and ToCo use it: neighbouring pixels of like colour that are labelled differently cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.labels import IGNORE
from tagseg.masks.permutohedral import Lattice, bilateral_features
from tagseg.masks.permutohedral_torch import TorchLattice


def dense_energy(
    images: torch.Tensor,
    probabilities: torch.Tensor,
    valid: torch.Tensor,
    labels: torch.Tensor,
    *,
    weight: float = 1e-7,
    sigma_xy: float = 100.0,
    sigma_rgb: float = 15.0,
    scale: float = 0.5,
) -> torch.Tensor:
    """Computes the dense energy of probabilities, `-weight / B * sum_i g_i S_i . (A S)_i`.

    S are the probabilities inside the valid pixels and A is the bilateral filter, its own pixel included and not
    normalised. The gate g is how unsure a valid pixel is, 1 minus its largest probability, and 1 where its label is
    unknown. As published, the gradient takes g for a constant and counts both sides of A as if both were gated:
    `-2 weight / B * g * (A S) * valid`.

    Args:
        images: `(B, 3, H, W)` in 0..255.
        probabilities: `(B, K, H, W)`, after the softmax.
        valid: `(B, H, W)`, 1 inside the photograph and 0 on its padding.
        labels: `(B, H, W)` pseudo-labels, 255 where unknown.
        weight, sigma_xy (pixels), sigma_rgb (levels): of the energy.
        scale: at which it is computed; `sigma_xy` shrinks with it.

    Returns:
        a scalar, never positive. On a CUDA device the lattice is torch, elsewhere it is compiled and on the CPU.
    """
    small = F.interpolate(probabilities, scale_factor=scale, mode="bilinear", align_corners=False)
    size = small.shape[-2:]
    pictures = F.interpolate(images.float(), size=size, mode="nearest").round().clamp(0, 255)
    inside = F.interpolate(valid[:, None].float(), size=size, mode="nearest")
    unknown = F.interpolate(labels[:, None].float(), size=size, mode="nearest") == IGNORE
    return _Energy.apply(small, pictures, inside, unknown, weight, sigma_xy * scale, sigma_rgb)


class _Energy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        probabilities: torch.Tensor,
        images: torch.Tensor,
        inside: torch.Tensor,
        unknown: torch.Tensor,
        weight: float,
        sigma_xy: float,
        sigma_rgb: float,
    ) -> torch.Tensor:
        """Returns the energy that `dense_energy` describes, as a scalar."""
        gate = (inside - probabilities.amax(dim=1, keepdim=True)).clamp(min=0)
        gate = torch.where(unknown, 1.0, gate)
        masses = (probabilities * inside).float()
        filtered = torch.stack(
            [_filter(image, mass, sigma_xy, sigma_rgb) for image, mass in zip(images, masses, strict=True)]
        )
        ctx.save_for_backward((-2 * weight / len(images)) * gate * filtered * inside)
        return -weight / len(images) * (masses * gate * filtered).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None, None, None]:
        """Returns the published gradient of the probabilities; the other inputs get none."""
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None, None, None, None


def _filter(image: torch.Tensor, masses: torch.Tensor, sigma_xy: float, sigma_rgb: float) -> torch.Tensor:
    count, height, width = masses.shape
    pixels = image.permute(1, 2, 0).cpu().numpy().astype(np.uint8)
    features = bilateral_features(pixels, sigma_xy, sigma_rgb)
    values = masses.reshape(count, -1).T
    if masses.device.type == "cuda":
        filtered = TorchLattice(torch.from_numpy(features).to(masses.device)).filter(values)
    else:
        filtered = torch.from_numpy(Lattice(features).filter(values.cpu().numpy())).to(masses.device)
    return filtered.T.reshape(count, height, width)
