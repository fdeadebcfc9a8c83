"""Random walks over a grid of cells that know how much they belong together: PSA (Ahn and Kwak, CVPR 2018, section
3.4) and IRN (Ahn, Cho and Kwak, CVPR 2019, section 4.2).

The published code raises a dense matrix of all pairs of cells to the power 256. Here the matrix is never made: a cell
has links within a radius only, and `T^n x` is a sum of Chebyshev polynomials of T applied to x, of which the first 85
carry all of it (for n = 256; the rest adds up to less than 1e-7 of the scores, see `_coefficients`). A photograph of
375 x 500 takes 34 numbers for each of 94 x 125 cells, 3 MB, instead of 138 million, 552 MB.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numba
import numpy as np
import torch

from tagseg.errors import BadInput
from tagseg.kernels import compiled, run

Offset = tuple[int, int]  # (dy, dx)


@functools.cache
def directions(radius: float) -> tuple[Offset, ...]:
    """Returns the offsets to all cells nearer than `radius`.

    Of each opposite pair there is one: dy = 0 and dx > 0, or dy > 0.
    """
    reach = math.ceil(radius) - 1
    around = [(dy, dx) for dy in range(reach + 1) for dx in range(-reach, reach + 1) if dy > 0 or dx > 0]
    return tuple((dy, dx) for dy, dx in around if dy * dy + dx * dx < radius * radius)


@functools.cache
def path(offset: Offset) -> tuple[Offset, ...]:
    """Returns the cells on the way from (0, 0) to `offset`, both included.

    They are those of the box between the two whose squared distance to the straight line is below 1 (the published path
    tables).
    """
    dy, dx = offset
    rows, columns = range(min(0, dy), max(0, dy) + 1), range(min(0, dx), max(0, dx) + 1)
    return tuple((y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx)


def sources(height: int, width: int, radius: float) -> tuple[slice, slice]:
    """Returns the cells of a grid from which every direction stays inside it, as slices of rows and columns.

    Raises:
        BadInput: there are none.
    """
    reach = math.ceil(radius) - 1
    if height <= reach or width <= 2 * reach:
        raise BadInput(
            f"a grid of {height} x {width} cells is too small for pairs within {radius:g} cells; "
            "train with a larger side or set a smaller radius."
        )
    return slice(0, height - reach), slice(reach, width - reach)


def shifted(grid: torch.Tensor, offset: Offset, radius: float) -> torch.Tensor:
    """Returns the values of `(..., h, w)` at an offset from its `sources`."""
    rows, columns = sources(grid.shape[-2], grid.shape[-1], radius)
    dy, dx = offset
    return grid[..., rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]


def edge_affinity(edge: torch.Tensor, radius: float) -> torch.Tensor:
    """Returns one minus the strongest edge on the way between cells (IRN, equation 3), for training.

    Args:
        edge: `(B, 1, h, w)` in [0, 1].

    Returns:
        `(B, D, S)`: D `directions`, S `sources` row by row.
    """
    pairs = []
    for offset in directions(radius):
        way = torch.stack([shifted(edge[:, 0], point, radius) for point in path(offset)])
        pairs.append(1 - way.max(dim=0).values.flatten(1))
    return torch.stack(pairs, dim=1)


def edge_links(edge: np.ndarray, radius: float) -> np.ndarray:
    """Returns the links of the walk from every cell of the grid: one minus the strongest edge on the way.

    `(h, w) -> (D, h, w)`, 0 where the way leaves the grid.
    """
    height, width = edge.shape
    links = np.zeros((len(directions(radius)), height, width), np.float32)
    for link, (dy, dx) in zip(links, directions(radius), strict=True):
        left, right = max(0, -dx), width - max(0, dx)
        if dy >= height or left >= right:
            continue
        strongest = np.zeros((height - dy, right - left), np.float32)
        for y, x in path((dy, dx)):
            np.maximum(strongest, edge[y : height - dy + y, left + x : right + x], out=strongest)
        link[: height - dy, left:right] = 1 - strongest
    return links


def feature_links(features: np.ndarray, radius: float) -> np.ndarray:
    """Returns `exp(-mean_c |f_i - f_j|)` of cells within reach (PSA, equation 2).

    `(D, h, w) -> (directions, h, w)`.
    """
    _, height, width = features.shape
    links = np.zeros((len(directions(radius)), height, width), np.float32)
    for link, (dy, dx) in zip(links, directions(radius), strict=True):
        left, right = max(0, -dx), width - max(0, dx)
        if dy < height and left < right:
            here = features[:, : height - dy, left:right]
            there = features[:, dy:, left + dx : right + dx]
            link[: height - dy, left:right] = np.exp(-np.abs(here - there).mean(axis=0))
    return links


def random_walk(
    scores: np.ndarray,
    links: np.ndarray,
    radius: float,
    *,
    beta: float,
    log_steps: int,
    threads: int | None = None,
) -> np.ndarray:
    """Returns the scores after `2 ** log_steps` steps of the walk (IRN, equation 8; PSA, equations 5 and 6).

    Links are raised to the power `beta`, every cell is linked to itself by 1, and every cell then takes the mean of the
    cells it is linked to, weighted by its links; so no score leaves the range that the scores had.

    Args:
        scores: `(K, h, w)`.
        links: `(D, h, w)` in [0, 1] between a cell and the cells at `directions(radius)` from it.
        threads: 1 for one core without Python's lock.

    Returns:
        `(K, h, w)` float32.

    Raises:
        BadInput: sizes that differ, or links outside [0, 1].
    """
    offsets = np.asarray(directions(radius), np.int64).reshape(-1, 2)
    if scores.ndim != 3 or links.shape != (len(offsets), *scores.shape[1:]):
        raise BadInput(
            f"the scores are {scores.shape} and the links {links.shape}; give (K, h, w) and ({len(offsets)}, h, w)."
        )
    if not (np.isfinite(scores).all() and (links >= 0).all() and (links <= 1).all()):
        raise BadInput("scores must be finite numbers, and links between 0 and 1.")
    # rounding the links to 32 bits would shift the scores by 256 times as much
    weights = np.ascontiguousarray(links, np.float64) ** beta
    now = np.ascontiguousarray(scores, np.float64)
    total = np.empty(now.shape[1:])
    kernels = _serial if threads == 1 else _parallel
    # a step of the constant 1 gives every cell's sum of links, its own among them
    ones = np.ones((1, *now.shape[1:]))
    run(kernels, "step", ones, weights, offsets, np.ones_like(total), ones, 0.0, total[None])
    # T takes the mean: its rows add up to 1
    shares = 1 / total
    coefficients = _coefficients(2**log_steps)
    # T^n x = sum_k c_k T_k(T) x: `now` is T_k(T) x, from T_0(T) x = x on
    before, result = np.zeros_like(now), coefficients[0] * now
    for degree, coefficient in enumerate(coefficients[1:], start=1):
        after = np.empty_like(now)  # T_1 = x, then T_k = 2 x T_(k-1) - T_(k-2)
        turn = 1 if degree == 1 else 2
        run(kernels, "step", now, weights, offsets, turn * shares, before, float(degree > 1), after)
        before, now = now, after
        # 0 where the degree has another parity than n
        if coefficient:
            result += coefficient * now
    return result.astype(np.float32)


@functools.cache
def _coefficients(power: int, tolerance: float = 1e-7) -> tuple[float, ...]:
    """`x^n = sum_k c_k T_k(x)` on [-1, 1], cut where the rest adds up to less than `tolerance`.

    c_k is twice the chance that n tosses of a coin end k ahead (once for k = 0); the eigenvalues of the walk lie in
    [-1, 1], so the cut changes no score by more than that share (Sachdeva and Vishnoi, 2014, section 3).
    """
    chances = np.zeros(power + 1)
    for ahead in range(power % 2, power + 1, 2):
        wins = (power + ahead) // 2
        log = math.lgamma(power + 1) - math.lgamma(wins + 1) - math.lgamma(power - wins + 1) - power * math.log(2)
        chances[ahead] = (2 if ahead else 1) * math.exp(log)
    rest = chances[::-1].cumsum()[::-1]
    kept = chances[: max(1, int((rest > tolerance).sum()))]
    return tuple((kept / kept.sum()).tolist())


def _step(
    scores: np.ndarray,
    weights: np.ndarray,
    offsets: np.ndarray,
    shares: np.ndarray,
    before: np.ndarray,
    minus: float,
    after: np.ndarray,
) -> None:
    """`after = shares * (scores + sum of linked scores) - minus * before`."""
    count, height, width = scores.shape
    for row in numba.prange(count * height):
        k, y = row // height, row % height
        line = after[k, y]
        # the cell's own score, to which it is linked by 1
        for x in range(width):
            line[x] = scores[k, y, x]
        for d in range(len(offsets)):
            dy, dx = offsets[d, 0], offsets[d, 1]
            # columns from which the other end lies inside the grid
            first, last = max(0, -dx), width - max(0, dx)
            # the cell at (+dy, +dx): the link is kept here
            if y + dy < height and first < last:
                link, there = weights[d, y, first:last], scores[k, y + dy, first + dx : last + dx]
                here = line[first:last]
                for x in range(last - first):
                    here[x] += link[x] * there[x]
            # the cell at (-dy, -dx): links are kept once a pair, so that this one is kept there
            if y - dy >= 0 and first < last:
                link, there = weights[d, y - dy, first:last], scores[k, y - dy, first:last]
                here = line[first + dx : last + dx]
                for x in range(last - first):
                    here[x] += link[x] * there[x]
        for x in range(width):
            line[x] = shares[y, x] * line[x] - minus * before[k, y, x]


_KERNELS: dict[str, Callable[..., None]] = {"step": _step}
_parallel, _serial = compiled(_KERNELS, True), compiled(_KERNELS, False)
