"""Reading what a layer gives as grids `(B, D, h, w)`: which axis is the images', which are rows and columns.

Shapes do not tell: 197 numbers may be tokens or channels, 56 may be rows. The network is asked. The same small pattern
is put into each corner of an empty image, one after the other, and what a layer gives moves along with it: up and down
along the axis of the rows, to and fro along that of the columns, in both ways along an axis of tokens, and not at all
along channels, for these see the same pattern everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from tagseg.errors import BadInput

CORNERS = 4  # upper left, upper right, lower left, lower right
_SURE, _SURE_OF_TOKENS = 0.53, 0.56  # of a response in its own half of the image; a half of it is chance
_PLAIN = 0.7  # the same, of rows and columns beyond doubt
_APART, _ALIKE = 0.6, 0.9  # of the responses to opposite corners in common
_PREFIX = 17  # class and distillation tokens and 16 registers, less one


@dataclass(frozen=True, slots=True)
class Reading:
    """Where the rows and columns of a layer's output are.

    batch: the axis of the images.
    rows, columns: axes; or the same axis twice, of tokens.
    prefix, suffix: tokens before and after those of the grid.
    cells: (h, w) that were found, of an image of `size` (H, W).
    """

    batch: int
    rows: int
    columns: int
    cells: tuple[int, int]
    size: tuple[int, int]
    prefix: int = 0
    suffix: int = 0

    @property
    def tokens(self) -> bool:
        """Returns whether rows and columns are one axis."""
        return self.rows == self.columns

    def grid(self, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Returns `(B, D, h, w)` of what the layer gave for images of `size` (H, W), a view where there is one."""
        places = (self.rows,) if self.tokens else (self.rows, self.columns)
        others = [axis for axis in range(values.ndim) if axis not in (self.batch, *places)]
        order = (self.batch, *others, *places)
        values = values if order == tuple(range(values.ndim)) else values.permute(order)
        if len(others) != 1:
            values = values.flatten(1, len(others)) if others else values.unsqueeze(1)
        if not self.tokens:
            return values
        cells = values.shape[2] - self.prefix - self.suffix
        shape = self._shape(cells, size)
        return values[:, :, self.prefix : self.prefix + cells].unflatten(2, shape)

    def _shape(self, cells: int, size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of so many cells: cells keep their size in pixels whatever the image's."""
        if size == self.size and cells == self.cells[0] * self.cells[1]:
            return self.cells
        height, width = (here * n / there for here, n, there in zip(size, self.cells, self.size, strict=True))
        for h in (math.ceil(height), math.floor(height)):
            for w in (math.ceil(width), math.floor(width)):
                if h * w == cells:
                    return h, w
        found = _token_grid(cells, size)
        if found is None or found[0] * found[1] != cells:
            raise BadInput(f"{cells} tokens are no grid of an image of {size[1]} x {size[0]} pixels.")
        return found


NO_GRID = Reading(-1, -1, -1, (0, 0), (0, 0))  # what moves along two axes of tokens: attention matrices, windows


def probes(image: torch.Tensor) -> torch.Tensor:
    """Returns an empty image, and one with the same pattern in each corner: `(1 + CORNERS, 3, H, W)`."""
    _, channels, height, width = image.shape
    tall, wide = max(1, height // 4), max(1, width // 4)
    generator = torch.Generator().manual_seed(0)
    pattern = (2 * torch.randn(channels, tall, wide, generator=generator)).to(image)
    found = image.new_zeros(1 + CORNERS, channels, height, width)
    for number, (top, left) in enumerate(((True, True), (True, False), (False, True), (False, False))):
        rows = slice(None, tall) if top else slice(height - tall, None)
        columns = slice(None, wide) if left else slice(width - wide, None)
        found[1 + number, :, rows, columns] = pattern
    return found


def batch_axis(one: Iterable[int], many: Iterable[int], times: int) -> int | None:
    """Returns the axis that is `times` as long for so many images and equal otherwise; None if there is no such axis,
    or more than one of its rows belong to an image."""
    before, after = tuple(one), tuple(many)
    if len(before) != len(after):
        return None
    longer = [axis for axis, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    if len(longer) != 1 or before[longer[0]] * times != after[longer[0]]:
        return None
    return longer[0]


def read_response(values: torch.Tensor, batch: int, size: tuple[int, int]) -> Reading | None:
    """Returns how to read a layer's output for `probes`; None if it cannot be told.

    `NO_GRID` stands for attention matrices, windows, and tokens in an order of their own. It cannot be told where
    everything has been mixed with everything, or where nothing comes through.
    """
    if values.ndim < 3 or not values.is_floating_point():
        return None
    moved = values.detach().movedim(batch, 0).float()
    response = (moved[1:] - moved[:1]).abs()
    total = response.flatten(1).sum(dim=1)
    if response.shape[0] != CORNERS or not (torch.isfinite(total).all() and (total > 0).all()):
        return None
    response /= total.reshape(-1, *[1] * (response.ndim - 1))
    axes = range(1, response.ndim)
    sums = {axis: _along(response, axis) for axis in axes}
    pairs = {}
    for r in axes:
        for c in axes:
            if r != c and _may_be_grid(response.shape[r], response.shape[c], size):
                joint = _along(response, min(r, c), max(r, c))
                pairs[r, c] = _share(joint if r < c else joint.transpose(1, 2))
    pair = max(pairs, key=lambda p: pairs[p], default=None)
    best = pairs[pair] if pair is not None else 0.0
    # axes before the images' keep their numbers, for they were moved behind
    home = [axis for axis in range(values.ndim) if axis != batch]
    if pair is not None and best > _PLAIN:  # tokens need not be looked for
        return Reading(
            batch, home[pair[0] - 1], home[pair[1] - 1], (response.shape[pair[0]], response.shape[pair[1]]), size
        )
    # one axis of tokens can be cut into rows in many ways, of which one may fit by chance: more is asked of it
    wide = sum(length > 1 for length in response.shape[1:]) > 1
    alone = {
        axis: found
        for axis in axes
        if wide and _common(sums[axis]) < _ALIKE
        if (found := _as_tokens(sums[axis], size)) is not None and found[0] > _asked_of(found, size)
    }
    token = max(alone, key=lambda axis: alone[axis][0], default=None)
    if token is not None and alone[token][0] > max(best, _SURE):
        same = [axis for axis in alone if response.shape[axis] == response.shape[token]]
        windows = response.ndim > 3 and token == 1  # tokens of each, which are other positions, come behind
        if len(same) > 1 or windows:
            return NO_GRID
        _, prefix, cells, suffix = alone[token]
        return Reading(batch, home[token - 1], home[token - 1], cells, size, prefix, suffix)
    if pair is None or best <= _SURE:
        # positions in an order of their own: opposite corners are answered at other places
        apart = any(_common(mass) < _APART for mass in sums.values() if mass.shape[1] > 15)
        return NO_GRID if apart else None
    return Reading(
        batch, home[pair[0] - 1], home[pair[1] - 1], (response.shape[pair[0]], response.shape[pair[1]]), size
    )


def _may_be_grid(rows: int, columns: int, size: tuple[int, int]) -> bool:
    """Whether two axes may be those of a grid: no finer than the image, and in about its proportions."""
    return 1 < rows <= size[0] and 1 < columns <= size[1] and 0.4 < rows / columns * size[1] / size[0] < 2.5


def _along(response: torch.Tensor, *axes: int) -> torch.Tensor:
    """Responses `(CORNERS, ...)` added up over all other axes."""
    others = [axis for axis in range(1, response.ndim) if axis not in axes]
    return response.sum(dim=others) if others else response


def _asked_of(found: tuple[float, int, tuple[int, int], int], size: tuple[int, int]) -> float:
    """The share above which tokens are believed: more for odd proportions and many tokens that are no cells."""
    _, prefix, (h, w), suffix = found
    return _SURE_OF_TOKENS + 0.4 * abs(math.log(h / w * size[1] / size[0])) + 0.005 * (prefix + suffix)


def _common(mass: torch.Tensor) -> float:
    """How much the responses `(CORNERS, n)` to opposite corners have in common: all of it along channels."""
    return float(torch.minimum(mass[0], mass[3]).sum())


def _share(response: torch.Tensor) -> float:
    """How much of `(CORNERS, h, w)`, of which each adds up to 1, lies in its own half: the lesser of above and below,
    and of left and right; a half is chance."""
    upper, left = _first_half(response.sum(dim=2)), _first_half(response.sum(dim=1))
    vertical = upper[0] + upper[1] + (1 - upper[2]) + (1 - upper[3])
    horizontal = left[0] + left[2] + (1 - left[1]) + (1 - left[3])
    return float(torch.minimum(vertical, horizontal)) / CORNERS


def _first_half(mass: torch.Tensor) -> torch.Tensor:
    """How much of each row `(CORNERS, n)` lies in its first half; the middle one counts for both."""
    half = mass.shape[1] // 2
    return mass[:, :half].sum(dim=1) + (0.5 * mass[:, half] if mass.shape[1] % 2 else 0)


def _as_tokens(response: torch.Tensor, size: tuple[int, int]) -> tuple[float, int, tuple[int, int], int] | None:
    """The share, tokens before, (h, w) and tokens after of the best reading of `(CORNERS, n)` as a grid."""
    best: tuple[float, tuple[float, int, tuple[int, int], int]] | None = None
    for prefix, (h, w), suffix in _grids(response.shape[1], size):
        cells = response[:, prefix : prefix + h * w].unflatten(1, (h, w))
        cells = cells / cells.flatten(1).sum(dim=1).clamp_min(1e-12)[:, None, None]
        crooked = abs(math.log(h / w * size[1] / size[0]))
        rank = _share(cells) - _spread(cells) - 0.2 * crooked - 0.003 * prefix - 0.004 * suffix
        if best is None or rank > best[0]:
            best = rank, (_share(cells), prefix, (h, w), suffix)
    return None if best is None else best[1]


def _spread(response: torch.Tensor) -> float:
    """How wide responses are, in parts of the grid; a row that is cut at the wrong place is torn in two."""
    found = 0.0
    for axis in (1, 2):
        mass = response.sum(dim=3 - axis)
        place = torch.arange(mass.shape[1], device=mass.device) / mass.shape[1]
        middle = (mass * place).sum(dim=1, keepdim=True)
        found += float((mass * (place - middle).square()).sum(dim=1).sqrt().mean())
    return found


def _grids(tokens: int, size: tuple[int, int]) -> Iterator[tuple[int, tuple[int, int], int]]:
    """Tokens before, (h, w), tokens after: all that so many tokens could be, in about the image's proportions."""
    ratio = size[0] / size[1]
    for suffix in (0, 1):
        for prefix in range(min(_PREFIX, tokens - 3)):
            cells = tokens - prefix - suffix
            for h in range(2, cells // 2 + 1):
                if cells % h == 0 and 0.6 < h * h / cells / ratio < 1.7 and prefix < cells:
                    yield prefix, (h, cells // h), suffix


def guessed(values: torch.Tensor, size: tuple[int, int], name: str) -> torch.Tensor:
    """Returns a layer's output `(B, D, h, w)`, `(B, h, w, D)` or tokens `(B, n, D)` as a view `(B, D, h, w)`.

    This is for networks that cannot be asked. Leading tokens that are no patches are left out; the proportions of the
    image, `size` (H, W), tell channels from rows and columns.

    Raises:
        BadInput: it is none of these.
    """
    if values.ndim == 4:
        first, last = _misfit(values.shape[2:], size), _misfit(values.shape[1:3], size)
        return values if first <= last else values.permute(0, 3, 1, 2)
    if values.ndim == 3:
        grid = _token_grid(values.shape[1], size)
        if grid is not None:
            prefix = values.shape[1] - grid[0] * grid[1]
            return values[:, prefix:].transpose(1, 2).unflatten(2, grid)
    raise BadInput(
        f"layer '{name}' gives {tuple(values.shape)}, neither a grid (B, D, h, w) nor tokens of one (B, n, D); "
        "choose a layer before pooling."
    )


def _misfit(grid: Iterable[int], size: tuple[int, int]) -> float:
    """How far the strides along both sides differ, as a ratio; 1 is none."""
    down, across = (side / cells for side, cells in zip(size, grid, strict=True))
    return max(down / across, across / down)


def _token_grid(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    height, width = size
    for prefix in range(min(_PREFIX, tokens)):
        cells = tokens - prefix
        rows = max(1, round((cells * height / width) ** 0.5))
        for h in (rows, rows - 1, rows + 1):
            if h < 1 or cells % h:
                continue
            w = cells // h
            stride = (height * width / cells) ** 0.5
            if abs(h - height / stride) < 0.5 and abs(w - width / stride) < 0.5 and min(h, w) > 1:
                return h, w
    return None
