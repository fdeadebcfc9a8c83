"""Maps of several layers made comparable and joined: LayerCAM (Jiang et al., TIP 2021), section III-C, equation 9."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch.nn import functional as F

from tagseg.errors import BadInput

Scaling = Literal["tanh", "none", "sqrt", "tan"]
SCALINGS: tuple[Scaling, ...] = ("tanh", "none", "sqrt", "tan")


class Fused:
    """What methods with maps of several layers share: the call that scales, resizes and joins them.

    Args:
        scaling, gamma: of all layers but the deepest, see `scale`.
    """

    layer_maps: Callable[..., list[torch.Tensor]]

    def __init__(self, scaling: Scaling, gamma: float) -> None:
        self.scaling, self.gamma = scaling, gamma

    def __call__(self, images: torch.Tensor, classes: Any = None, **options: Any) -> torch.Tensor:
        """Returns class maps `(B, K, H, W)` in [0, 1], those of several layers fused (see `fuse`).

        Takes what `layer_maps` takes.
        """
        maps = self.layer_maps(images, classes, **options)
        return fuse(maps, (images.shape[2], images.shape[3]), scaling=self.scaling, gamma=self.gamma)


def normalise(maps: torch.Tensor) -> torch.Tensor:
    """Divides each map `(..., h, w)`, without its negative values, by its maximum.

    A map without positive values becomes zero.
    """
    maps = maps.clamp_min(0)
    highest = maps.amax(dim=(-2, -1), keepdim=True)
    return torch.where(highest > 0, maps / torch.where(highest > 0, highest, 1), 0)


def scale(maps: torch.Tensor, scaling: Scaling, gamma: float = 2.0) -> torch.Tensor:
    """Lifts the low values that maps of shallow layers mostly have.

    `tanh` is the published equation 9, `tanh(gamma * M / max M)`, gamma = 2 the best of 1 to 4. `none`, `sqrt`
    (`gamma * sqrt(M / max M)`) and `tan` (`tan(M / max M)`) are its ablation; how the paper scales the tangent's
    argument is not said, and 1 keeps it clear of the pole.

    Args:
        maps: `(..., h, w)`, any range.
    """
    maps = normalise(maps)
    if scaling == "tanh":
        return torch.tanh(gamma * maps)
    if scaling == "sqrt":
        return gamma * maps.sqrt()
    if scaling == "tan":
        return torch.tan(maps)
    if scaling == "none":
        return maps
    raise BadInput(f"scaling '{scaling}': choose one of {', '.join(SCALINGS)}.")


def resize(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes maps bilinearly, corners not aligned, as published. `(B, K, h, w) -> (B, K, *size)`."""
    return maps if maps.shape[-2:] == torch.Size(size) else F.interpolate(maps, size=size, mode="bilinear")


def fuse(
    layer_maps: Sequence[torch.Tensor],
    size: tuple[int, int],
    *,
    scaling: Scaling = "tanh",
    gamma: float = 2.0,
    scaled: Sequence[int] | None = None,
) -> torch.Tensor:
    """Scales and resizes the maps of several layers, and takes the largest value at every position.

    Args:
        layer_maps: `(B, K, h, w)` of every layer, shallow to deep, unnormalised.
        size: (H, W) of the image.
        scaled: positions of the layers that are scaled; None for all but the deepest. (The paper scales "shallow
            layers", stages 1 to 3, and leaves the fourth open.)

    Returns:
        `(B, K, H, W)` in [0, 1]; the maximum of every map is 1, a map without positive evidence is 0.
    """
    chosen = range(len(layer_maps) - 1) if scaled is None else scaled
    fused = None
    for number, maps in enumerate(layer_maps):
        values = scale(maps, scaling, gamma) if number in chosen else normalise(maps)
        values = resize(values, size)
        fused = values if fused is None else torch.maximum(fused, values)
    if fused is None:
        raise BadInput("there are no maps to fuse; give at least one layer.")
    return normalise(fused)
