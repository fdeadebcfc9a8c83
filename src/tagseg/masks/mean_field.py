"""Mean field over two permutohedral lattices, compiled: the inner loop of `tagseg.masks.crf`.

Three things are left out without changing the result. The filtered probabilities of all labels add up to the filtered
constant, which is known, so the last label is never filtered. Reading the lattices, softmax and spreading for the next
iteration are one pass, so that the probabilities exist for a few pixels at a time. And the lattice of positions alone
is the same for all photographs of one size (`tagseg.masks.crf` keeps it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from tagseg.kernels import compiled, run
from tagseg.masks.permutohedral import CHUNK, Buffers, Lattice
from tagseg.masks.vectors import add_gathered, add_scaled, exp, lanes_for, row_max, row_sum, width_for

_TILE = 32  # pixels whose probabilities exist at a time; divides a chunk


def mean_field(
    energy: np.ndarray,
    iterations: int,
    lattices: tuple[Lattice, Lattice],
    weights: tuple[np.float32, np.float32],
    ones: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Runs mean field over two lattices: `(N, L)` energies and normalised lattices -> `(N, L)` probabilities."""
    size, labels = energy.shape
    lanes, width = lanes_for(labels - 1), width_for(labels - 1)
    relative = np.empty((size, width), np.float32)  # energies above that of the last label
    relative[:, labels - 1 :] = 1e9  # no label
    np.subtract(energy[:, :-1], energy[:, -1:], out=relative[:, : labels - 1], casting="same_kind")
    # the message that all labels together get: that of the filtered constant
    constant = weights[0] * ones[0] + weights[1] * ones[1]
    result = np.empty((size, labels), np.float32)
    buffers = [Buffers(lattice, width) for lattice in lattices]
    kernels = _parallel if lattices[0].kernels.parallel else _serial
    sides: list[Any] = []
    for lattice, buffer, weight in zip(lattices, buffers, weights, strict=True):
        sides.append((lattice.corners, lattice.weights, lattice.rows, lattice.members, weight * lattice.gain, buffer))
    for step in range(iterations + 1):
        # made anew every time, for `blur` swaps its two grids
        arguments = [
            (corners, shares, rows, members, factor, buffer.grid, buffer.partial)
            for corners, shares, rows, members, factor, buffer in sides
        ]
        # one step more than iterations: the first has nothing to read yet, the last spreads nothing
        run(kernels, "step", relative, constant, *arguments, step == 0, step == iterations, result, lanes)
        if step < iterations:
            for lattice, buffer in zip(lattices, buffers, strict=True):
                lattice.blur(buffer, lanes)
    return result


def _step(
    relative: np.ndarray,
    constant: np.ndarray,
    smooth: Any,
    edges: Any,
    first: bool,
    last: bool,
    result: np.ndarray,
    lanes: tuple[int, ...],
) -> None:
    """Read both lattices, softmax, and spread the probabilities over both; in the end write them instead."""
    size, width = relative.shape
    labels = result.shape[1]
    corners_s, weights_s, rows_s, members_s, factor_s, grid_s, partial_s = smooth
    corners_e, weights_e, rows_e, members_e, factor_e, grid_e, partial_e = edges
    for chunk in numba.prange(len(rows_s) - 1):
        tile = np.empty((_TILE, width), np.float32)
        flat = tile.reshape(_TILE * width)
        ones = np.ones((1, width), np.float32)
        top = np.empty(_TILE, np.float32)
        rest = np.empty(_TILE, np.float32)
        own_s = partial_s[rows_s[chunk] : rows_s[chunk + 1]]
        own_e = partial_e[rows_e[chunk] : rows_e[chunk + 1]]
        # only the vertices that this chunk touches, side by side, so that they stay in the cache
        if not first:
            read_s = grid_s[members_s[rows_s[chunk] : rows_s[chunk + 1]]]
            read_e = grid_e[members_e[rows_e[chunk] : rows_e[chunk + 1]]]
        if not last:
            own_s[:] = 0
            own_e[:] = 0
        for start in range(chunk * CHUNK, min(size, (chunk + 1) * CHUNK), _TILE):
            count = min(_TILE, size - start)
            flat[:] = 0
            for t in range(count):
                point = start + t
                rest[t] = 0
                if not first:
                    add_gathered(tile, t, read_s, corners_s, weights_s, point, factor_s, lanes)
                    add_gathered(tile, t, read_e, corners_e, weights_e, point, factor_e, lanes)
                    rest[t] = constant[point] - row_sum(tile, t, lanes)  # what the last label hears
                # a label's logit is its message less its energy; the last label's energy is 0
                add_scaled(tile, t, relative, point, np.float32(-1), lanes)
                highest = row_max(tile, t, lanes)
                top[t] = highest if highest > rest[t] else rest[t]
                # less the highest logit, as `exp` wants it
                add_scaled(tile, t, ones, 0, -top[t], lanes)
            for t in range(count):
                rest[t] = exp(rest[t] - top[t])
            # one flat loop, which becomes vector instructions
            for place in range(count * width):
                flat[place] = exp(flat[place])
            for t in range(count):
                point = start + t
                inverse = np.float32(1) / (rest[t] + row_sum(tile, t, lanes))
                if last:
                    for c in range(labels - 1):
                        result[point, c] = tile[t, c] * inverse
                    result[point, labels - 1] = rest[t] * inverse
                    continue
                # d + 1 corners: 3 of the positions, and 6 of positions with colours
                for kind in range(3):
                    corner, weight = corners_s[point, kind], weights_s[point, kind]
                    add_scaled(own_s, corner, tile, t, inverse * weight, lanes)
                for kind in range(6):
                    corner, weight = corners_e[point, kind], weights_e[point, kind]
                    add_scaled(own_e, corner, tile, t, inverse * weight, lanes)


_KERNELS: dict[str, Callable[..., None]] = {"step": _step}
_parallel, _serial = compiled(_KERNELS, True), compiled(_KERNELS, False)
