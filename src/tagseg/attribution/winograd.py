"""3x3 convolutions in fewer multiplications, for passes on a CPU: Lavin and Gray, "Fast Algorithms for Convolutional
Neural Networks", CVPR 2016, F(4x4, 3x3).

Every 4x4 tile of the output comes from a 6x6 tile of the input: both are transformed, and the 144 multiplications per
channel pair become 36. The sums are in another order, so results differ from the direct ones by rounding, about
1e-5 of the largest value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tagseg.kernels import on_all_cores

_BLOCK = 32  # channels that are transformed together
_BUFFER = 2 << 20  # numbers in the transformed tiles at a time; they stay in the last cache
_TILES = 256  # fewer tiles do not pay for transforming the weights


class FastConvolutions(TorchFunctionMode):
    """A context in which convolutions go through `convolution`, forward and backward, where they gain from it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d and len(args) > 1 and _gains(*args, **(kwargs or {})):
            return _Convolution.apply(args[0], args[1], args[2] if len(args) > 2 else (kwargs or {}).get("bias"))
        return func(*args, **(kwargs or {}))


def _gains(
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,  # noqa: ARG001
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    return (
        groups == 1
        and image.device.type == "cpu"
        and image.dtype == weight.dtype == torch.float32
        and image.ndim == 4
        and tuple(weight.shape[2:]) == (3, 3)
        and weight.shape[0] % _BLOCK == 0
        and weight.shape[1] % _BLOCK == 0
        and not weight.requires_grad
        and stride in (1, (1, 1))
        and padding in (1, (1, 1))
        and dilation in (1, (1, 1))
        and _worth(image, weight)
        and not torch.is_autocast_enabled("cpu")
        and image.is_contiguous(memory_format=torch.channels_last)
    )


def _worth(image: torch.Tensor, weight: torch.Tensor) -> bool:
    """Transforming costs by inputs plus outputs, and saves by their product; measured, the two meet at 32 to 42."""
    outputs, inputs = weight.shape[:2]
    tiles = image.shape[0] * -(-image.shape[2] // 4) * -(-image.shape[3] // 4)
    return tiles >= _TILES and inputs * outputs / (inputs + outputs) > 40


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Returns the convolution that `convolution` computes."""
        ctx.weight, ctx.filters = weight, None
        return convolution(image, transformed(weight).transpose(1, 2), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Returns the gradient of the image; weight and bias get none."""
        (gradient,) = gradients
        if ctx.filters is None:  # kept for the other classes
            ctx.filters = transformed(ctx.weight, flip=True)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        return convolution(gradient, ctx.filters), None, None


@torch.no_grad()
def transformed(weight: torch.Tensor, flip: bool = False) -> torch.Tensor:
    """Transforms 3x3 filters for the fast convolution: `(O, D, 3, 3)` -> `(36, O, D)`.

    With `flip` the filters are turned by half a circle, for the backward pass.
    """
    filters = torch.empty(36, *weight.shape[:2])
    on_all_cores(_transform, weight.detach().contiguous().numpy(), filters.numpy(), flip)
    return filters


@torch.no_grad()
def convolution(image: torch.Tensor, filters: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Computes a 3x3 convolution with a padding of 1.

    Args:
        image: `(B, D, H, W)`, channels last, D a multiple of 32, float32.
        filters: `(36, D, O)`, O a multiple of 32.
        bias: `(O,)`.

    Returns:
        `(B, O, H, W)`, channels last.
    """
    count, inputs, height, width = image.shape
    outputs = filters.shape[2]
    down, across = -(-height // 4), -(-width // 4)
    source = image.detach().permute(0, 2, 3, 1).numpy()
    result = torch.empty((count, outputs, height, width), memory_format=torch.channels_last)
    target = result.permute(0, 2, 3, 1).numpy()
    shift = np.zeros(outputs, np.float32) if bias is None else bias.detach().numpy()
    buffer = max(_BUFFER, filters.numel())  # long rows where reading the filters is the cost
    rows = min(count * down, max(2, buffer // (36 * across * (inputs + outputs))))
    tiles, products = torch.empty(36, rows * across, inputs), torch.empty(36, rows * across, outputs)
    for first in range(0, count * down, rows):
        last = min(first + rows, count * down)
        on_all_cores(_cut, source, tiles.numpy(), first, last)
        torch.bmm(tiles, filters, out=products)
        on_all_cores(_join, products.numpy(), shift, target, first, last)
    return result


@numba.njit(parallel=True, fastmath=True, cache=True)
def _transform(weight: np.ndarray, filters: np.ndarray, flip: bool) -> None:
    """G g G^T of every pair of channels."""
    outputs, inputs = weight.shape[:2]
    for o in numba.prange(outputs):
        taps = np.empty((3, 3, inputs), np.float32)
        half = np.empty((6, 3, inputs), np.float32)
        for i in range(3):
            for j in range(3):
                y, x = (2 - i, 2 - j) if flip else (i, j)
                for d in range(inputs):
                    taps[i, j, d] = weight[o, d, y, x]
        # G from the left, along the columns; then G^T from the right, along the rows
        for j in range(3):
            _filter(taps[0, j], taps[1, j], taps[2, j], half[:, j])
        for i in range(6):
            _filter(half[i, 0], half[i, 1], half[i, 2], filters[6 * i : 6 * i + 6, o])


@numba.njit(fastmath=True, cache=True)
def _filter(g0: np.ndarray, g1: np.ndarray, g2: np.ndarray, into: np.ndarray) -> None:
    """G g along one direction: `(D,)` three times -> `(6, D)`."""
    t0, t1, t2, t3, t4, t5 = into[0], into[1], into[2], into[3], into[4], into[5]
    for d in range(len(g0)):
        # rows of G: (6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24), all over 24
        p, q = g0[d] + g2[d], g0[d] / 24 + g2[d] / 6
        t0[d] = g0[d] / 4
        t1[d] = -(p + g1[d]) / 6
        t2[d] = -(p - g1[d]) / 6
        t3[d] = q + g1[d] / 12
        t4[d] = q - g1[d] / 12
        t5[d] = g2[d]


@numba.njit(parallel=True, fastmath=True, cache=True)
def _cut(image: np.ndarray, tiles: np.ndarray, first: int, last: int) -> None:
    """Rows of tiles `first..last` of all images, transformed: B^T d B."""
    _, height, width, channels = image.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    for row in numba.prange(first, last):
        # tiles begin one pixel above and left of their outputs, and overlap by two
        number, top = row // down, (row % down) * 4 - 1
        half = np.empty((6, 6, _BLOCK), np.float32)
        zeros = np.zeros(_BLOCK, np.float32)
        for column in range(across):
            left, place = column * 4 - 1, (row - first) * across + column
            for start in range(0, channels, _BLOCK):
                end = start + _BLOCK
                for j in range(6):
                    x = left + j
                    inside = 0 <= x < width
                    # outside the image lies the padding
                    d0 = image[number, top, x, start:end] if inside and top >= 0 else zeros
                    d1 = image[number, top + 1, x, start:end] if inside and top + 1 < height else zeros
                    d2 = image[number, top + 2, x, start:end] if inside and top + 2 < height else zeros
                    d3 = image[number, top + 3, x, start:end] if inside and top + 3 < height else zeros
                    d4 = image[number, top + 4, x, start:end] if inside and top + 4 < height else zeros
                    d5 = image[number, top + 5, x, start:end] if inside and top + 5 < height else zeros
                    for c in range(_BLOCK):
                        # B^T from the left: its rows 1 and 2, and 3 and 4, share their terms but for a sign
                        p, q = d4[c] - 4 * d2[c], d3[c] - 4 * d1[c]
                        r, s = d4[c] - d2[c], 2 * (d3[c] - d1[c])
                        half[0, j, c] = 4 * d0[c] - 5 * d2[c] + d4[c]
                        half[1, j, c] = p + q
                        half[2, j, c] = p - q
                        half[3, j, c] = r + s
                        half[4, j, c] = r - s
                        half[5, j, c] = 4 * d1[c] - 5 * d3[c] + d5[c]
                for i in range(6):
                    # and B from the right
                    t0, t1 = tiles[6 * i, place, start:end], tiles[6 * i + 1, place, start:end]
                    t2, t3 = tiles[6 * i + 2, place, start:end], tiles[6 * i + 3, place, start:end]
                    t4, t5 = tiles[6 * i + 4, place, start:end], tiles[6 * i + 5, place, start:end]
                    for c in range(_BLOCK):
                        d1c, d2c, d3c, d4c = half[i, 1, c], half[i, 2, c], half[i, 3, c], half[i, 4, c]
                        p, q = d4c - 4 * d2c, d3c - 4 * d1c
                        r, s = d4c - d2c, 2 * (d3c - d1c)
                        t0[c] = 4 * half[i, 0, c] - 5 * d2c + d4c
                        t1[c] = p + q
                        t2[c] = p - q
                        t3[c] = r + s
                        t4[c] = r - s
                        t5[c] = 4 * d1c - 5 * d3c + half[i, 5, c]


@numba.njit(parallel=True, fastmath=True, cache=True)
def _join(products: np.ndarray, bias: np.ndarray, result: np.ndarray, first: int, last: int) -> None:
    """The outputs of the tiles: A^T m A, and the bias."""
    _, height, width, channels = result.shape
    down, across = (height + 3) // 4, (width + 3) // 4
    for row in numba.prange(first, last):
        number, top = row // down, (row % down) * 4
        half = np.empty((4, 6, _BLOCK), np.float32)
        spare = np.empty(_BLOCK, np.float32)
        for column in range(across):
            left, place = column * 4, (row - first) * across + column
            for start in range(0, channels, _BLOCK):
                end = start + _BLOCK
                for j in range(6):
                    m0, m1 = products[j, place, start:end], products[6 + j, place, start:end]
                    m2, m3 = products[12 + j, place, start:end], products[18 + j, place, start:end]
                    m4, m5 = products[24 + j, place, start:end], products[30 + j, place, start:end]
                    for c in range(_BLOCK):
                        # A^T from the left: sums and differences of the same pairs serve all four rows
                        s, d, u, v = m1[c] + m2[c], m1[c] - m2[c], m3[c] + m4[c], m3[c] - m4[c]
                        half[0, j, c] = m0[c] + s + u
                        half[1, j, c] = d + 2 * v
                        half[2, j, c] = s + 4 * u
                        half[3, j, c] = d + 8 * v + m5[c]
                b = bias[start:end]
                # and A from the right; what would lie beyond the border goes into `spare`, or is not computed
                for i in range(min(4, height - top)):
                    r0 = result[number, top + i, left, start:end]
                    r1 = result[number, top + i, left + 1, start:end] if left + 1 < width else spare
                    r2 = result[number, top + i, left + 2, start:end] if left + 2 < width else spare
                    r3 = result[number, top + i, left + 3, start:end] if left + 3 < width else spare
                    for c in range(_BLOCK):
                        s, d = half[i, 1, c] + half[i, 2, c], half[i, 1, c] - half[i, 2, c]
                        u, v = half[i, 3, c] + half[i, 4, c], half[i, 3, c] - half[i, 4, c]
                        r0[c] = half[i, 0, c] + s + u + b[c]
                        r1[c] = d + 2 * v + b[c]
                        r2[c] = s + 4 * u + b[c]
                        r3[c] = d + 8 * v + half[i, 5, c] + b[c]
