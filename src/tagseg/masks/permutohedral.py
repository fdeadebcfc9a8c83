"""High-dimensional Gaussian filtering in linear time: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using
the Permutohedral Lattice", Eurographics 2010.

Every point lies in a simplex of a lattice of d + 1 kinds of vertices. Its value is spread over the d + 1 corners, the
lattice is blurred along its d + 1 directions, and the values are read back at the same corners. The lattice is built
and blurred as in the dense CRF of Kraehenbuehl and Koltun (NIPS 2011), so the results are those of its packages.

Points are handled in chunks of neighbours with a numbering of their own vertices: what a chunk touches stays in the
cache, chunks run in parallel, and no result depends on how many threads there are. `permutohedral_torch` does the same
on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch

from tagseg.errors import BadInput
from tagseg.kernels import compiled, run
from tagseg.masks.vectors import add_gathered, add_scaled, blend, lanes_for, width_for

CHUNK = 4096  # points; at most 2**16 / (d + 1)
_KEY_BITS = 60  # of a vertex's coordinates in one number; its kind takes 3 more
_GOLDEN = np.int64(-7046029254386353131)  # 2**64 over the golden ratio, for hashing by multiplication


class Lattice:
    """A lattice over points, to filter any number of values on them.

    Args:
        features: `(N, d)` positions divided by their standard deviations, d at most 7.
        threads: 1 for one core without Python's lock; None for as many as torch uses.

    Raises:
        BadInput: the features span more than the lattice can number (a deviation far below one unit).

    Memory: `14 (d + 1)` bytes a point while it is built, 6 of them kept, and `8 (d + 1)` a vertex, of which there are
    fewer than points in photographs at the usual deviations.
    """

    def __init__(self, features: np.ndarray, threads: int | None = None) -> None:
        features = np.ascontiguousarray(features, dtype=np.float32)
        self.size, self.dimensions = features.shape
        self.kernels = serial if threads == 1 else parallel
        scale = scale_factors(self.dimensions)
        bits = check_span(features, scale)
        kinds, chunks = self.dimensions + 1, -(-self.size // CHUNK)
        self.corners = np.empty((self.size, kinds), np.uint16)  # numbered within the chunk
        self.weights = np.empty((self.size, kinds), np.float32)
        keys = np.empty((chunks, CHUNK * kinds), np.int64)
        found = np.empty(chunks, np.int64)
        self.run("embed", features, scale, bits, self.corners, self.weights, keys, found)
        # rows: of every chunk's vertices one after the other; members: their vertex; back: the rows of a vertex
        table_keys, table, vertices, self.rows, self.members, self.starts, self.back = _merge(keys, found)
        self.neighbours = np.full((kinds, len(vertices), 2), len(vertices), np.int32)
        self.run("find_neighbours", table_keys, table, vertices, bits, self.neighbours)

    @property
    def vertices(self) -> int:
        """Returns how many vertices the lattice has."""
        return self.neighbours.shape[1]

    @property
    def gain(self) -> np.float32:
        """Returns the factor that takes out what the blur adds to a constant, when values are read back."""
        return np.float32(1 / (1 + 2.0**-self.dimensions))

    def filter(self, values: np.ndarray) -> np.ndarray:
        """Filters values: `sum_j exp(-|f_i - f_j|^2 / 2) v_j` for every i, the point itself included.

        `(N, C) -> (N, C)` float32.
        """
        channels = values.shape[1]
        lanes = lanes_for(channels)
        wide = np.zeros((self.size, width_for(channels)), np.float32)
        wide[:, :channels] = values
        buffers = Buffers(self, wide.shape[1])
        self.run("splat", wide, self.corners, self.weights, self.rows, buffers.partial, lanes)
        self.blur(buffers, lanes)
        self.run("slice", buffers.grid, self.corners, self.weights, self.rows, self.members, self.gain, wide, lanes)
        return wide[:, :channels]

    def blur(self, buffers: Buffers, lanes: tuple[int, ...]) -> None:
        """Adds up the chunks' parts and blurs them; the result is `buffers.grid`."""
        self.run("collect", buffers.partial, self.starts, self.back, buffers.grid, lanes)
        for direction in self.neighbours:
            self.run("blur", buffers.grid, direction, buffers.other, lanes)
            buffers.grid, buffers.other = buffers.other, buffers.grid

    def normalise(self) -> np.ndarray:
        """Makes the filter symmetrically normalised from now on.

        It then has `k_ij / sqrt(n_i n_j)` with `n_i = sum_j k_ij`.

        Returns:
            `(N,)` the filtered constant 1, which is close to 1 and smaller at lone points.
        """
        ones = np.ones((self.size, 1), np.float32)
        self.run("scale", self.weights, 1 / np.sqrt(self.filter(ones)[:, 0] + 1e-20))
        return self.filter(ones)[:, 0]

    def run(self, kernel: str, *arguments: Any) -> None:
        """Runs the compiled kernel of that name with the lattice's choice of threads."""
        run(self.kernels, kernel, *arguments)


def position_features(height: int, width: int, deviation: float) -> np.ndarray:
    """Returns `(H W, 2)` features of positions: x and y over their deviation."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x.ravel(), y.ravel()], axis=1) / np.float32(deviation)


def bilateral_features(image: np.ndarray, deviation_xy: float, deviation_rgb: float) -> np.ndarray:
    """Returns `(H W, 5)` features of an image: x, y, and the three colours over their deviations."""
    height, width = image.shape[:2]
    features = np.empty((height, width, 5), np.float32)
    features[..., 0] = np.arange(width, dtype=np.float32) / np.float32(deviation_xy)
    features[..., 1] = np.arange(height, dtype=np.float32)[:, None] / np.float32(deviation_xy)
    np.divide(image, np.float32(deviation_rgb), out=features[..., 2:])
    return features.reshape(-1, 5)


class Buffers:
    """The values on a lattice: per chunk, and on its vertices twice.

    The last row stands for vertices that are not there, and stays zero.
    """

    def __init__(self, lattice: Lattice, width: int) -> None:
        self.partial = np.empty((len(lattice.members), width), np.float32)
        self.grid = np.zeros((lattice.vertices + 1, width), np.float32)
        self.other = np.zeros((lattice.vertices + 1, width), np.float32)


def scale_factors(dimensions: int) -> np.ndarray:
    """Returns how far a standard deviation reaches along each axis of the lattice.

    The factors are those of section 3.1 of Adams, Baek and Davis (Eurographics 2010).
    """
    axes = np.arange(dimensions)
    return ((dimensions + 1) * np.sqrt(2 / 3) / np.sqrt((axes + 1) * (axes + 2))).astype(np.float32)


def check_span(features: np.ndarray, scale: np.ndarray) -> int:
    """Returns the bits for a coordinate of a vertex.

    Raises:
        BadInput: they do not suffice, or a feature is not a number.
    """
    dimensions = features.shape[1]
    bits = min(30, _KEY_BITS // dimensions)
    largest = torch.from_numpy(features).abs().amax(dim=0).numpy() if len(features) else np.zeros(dimensions)
    if not (largest * scale * (np.arange(dimensions) + 2)).sum() < (dimensions + 1) * 2 ** (bits - 1):
        raise BadInput(
            f"the features of the filter reach {largest.max():g} standard deviations; they must be finite, "
            "and the deviations larger."
        )
    return bits


# What follows is compiled. A vertex of kind r has coordinates congruent to r modulo d + 1, so its key holds, d times,
# the quotient in `bits` bits, and r in the lowest 3.


def _embed(
    features: np.ndarray,
    scale: np.ndarray,
    bits: int,
    corners: np.ndarray,
    weights: np.ndarray,
    keys: np.ndarray,
    found: np.ndarray,
) -> None:
    size, dimensions = features.shape
    kinds = dimensions + 1
    # slots of a hash table that is at most half full; a power of two, so that a mask wraps
    slots = 1
    while slots < 2 * CHUNK * kinds:
        slots *= 2
    # added to a quotient, so that what goes into a key is not negative
    half = np.int64(1) << (bits - 1)
    for chunk in numba.prange(len(found)):
        table = np.full(slots, -1, np.int32)
        elevated = np.empty(kinds, np.float32)
        origin = np.empty(kinds, np.int64)
        rank = np.empty(kinds, np.int64)
        barycentric = np.empty(kinds + 1, np.float32)
        own = keys[chunk]
        known = 0
        for point in range(chunk * CHUNK, min(size, (chunk + 1) * CHUNK)):
            # up to the hyperplane on which coordinates add up to 0 (section 3.1): coordinate i is the sum
            # of the later features minus i times the one before it
            total = np.float32(0)
            for axis in range(dimensions, 0, -1):
                value = features[point, axis - 1] * scale[axis - 1]
                elevated[axis] = total - np.float32(axis) * value
                total += value
            elevated[0] = total
            # the nearest vertex of kind 0, as multiples of d + 1
            excess = np.int64(0)
            for i in range(kinds):
                origin[i] = np.int64(np.floor(elevated[i] / np.float32(kinds) + np.float32(0.5)))
                elevated[i] -= np.float32(origin[i] * kinds)
                excess += origin[i]
                rank[i] = 0
            # the order of what is left, 0 for the largest, says in which simplex around that vertex the point lies
            for i in range(kinds):
                for j in range(i + 1, kinds):
                    below = np.int64(elevated[i] < elevated[j])
                    rank[i] += below
                    rank[j] += 1 - below
            # rounded coordinates may miss the sum 0: those with the most left step up, or those with the least down
            for i in range(kinds):
                rank[i] += excess
                if rank[i] < 0:
                    rank[i] += kinds
                    origin[i] += 1
                    elevated[i] -= np.float32(kinds)
                elif rank[i] > dimensions:
                    rank[i] -= kinds
                    origin[i] -= 1
                    elevated[i] += np.float32(kinds)
            # barycentric weights are differences of neighbours in that order; a key holds all coordinates but the last
            for i in range(kinds + 1):
                barycentric[i] = 0
            base = np.int64(0)
            for i in range(kinds):
                share = elevated[i] / np.float32(kinds)
                barycentric[dimensions - rank[i]] += share
                barycentric[kinds - rank[i]] -= share
                if i < dimensions:
                    base = (base << bits) | (origin[i] + half)
            barycentric[0] += np.float32(1) + barycentric[kinds]
            key = base << 3
            for kind in range(kinds):
                if kind > 0:  # one coordinate after the other steps down, in the order of the ranks
                    key += 1
                    for i in range(dimensions):
                        if rank[i] == kinds - kind:
                            key -= np.int64(1) << (3 + bits * (dimensions - 1 - i))
                # from a taken slot on to the next, until the key or a free one is met
                slot = ((key * _GOLDEN) >> 33) & (slots - 1)
                while table[slot] >= 0 and own[table[slot]] != key:
                    slot = (slot + 1) & (slots - 1)
                if table[slot] < 0:
                    table[slot] = known
                    own[known] = key
                    known += 1
                corners[point, kind] = table[slot]
                weights[point, kind] = barycentric[kind]
        found[chunk] = known


@numba.njit(cache=True, nogil=True)
def _merge(keys: np.ndarray, found: np.ndarray) -> Any:
    """Number the vertices of all chunks."""
    # where the vertices of every chunk begin, when all chunks lie one after the other
    rows = np.zeros(len(found) + 1, np.int64)
    for chunk in range(len(found)):
        rows[chunk + 1] = rows[chunk] + found[chunk]
    slots = 1
    while slots < 2 * rows[-1]:
        slots *= 2
    table_keys = np.empty(slots, np.int64)
    table = np.full(slots, -1, np.int32)
    vertices = np.empty(rows[-1], np.int64)
    members = np.empty(rows[-1], np.int32)
    counts = np.zeros(rows[-1] + 1, np.int32)
    known = 0
    for chunk in range(len(found)):
        for own in range(found[chunk]):
            key = keys[chunk, own]
            slot = ((key * _GOLDEN) >> 33) & (slots - 1)
            while table[slot] >= 0 and table_keys[slot] != key:
                slot = (slot + 1) & (slots - 1)
            if table[slot] < 0:
                table[slot] = known
                table_keys[slot] = key
                vertices[known] = key
                known += 1
            members[rows[chunk] + own] = table[slot]
            counts[table[slot]] += 1
    # a counting sort of rows by their vertex; rows of one vertex keep their order, whatever the threads do
    starts = np.zeros(known + 1, np.int32)
    for vertex in range(known):
        starts[vertex + 1] = starts[vertex] + counts[vertex]
    back = np.empty(rows[-1], np.int32)
    places = starts[:known].copy()
    for row in range(rows[-1]):
        back[places[members[row]]] = row
        places[members[row]] += 1
    return table_keys, table, vertices[:known].copy(), rows, members, starts, back


def _find_neighbours(
    table_keys: np.ndarray, table: np.ndarray, vertices: np.ndarray, bits: int, neighbours: np.ndarray
) -> None:
    """Along direction j the two neighbours differ by minus and plus (1, ..., 1, -d, 1, ...), -d at place j."""
    kinds = len(neighbours)
    dimensions = kinds - 1
    slots = len(table)
    # 1 in every quotient of a key
    ones = np.int64(0)
    for _ in range(dimensions):
        ones = (ones << bits) | 1
    for vertex in numba.prange(len(vertices)):
        key = vertices[vertex]
        # minus (1, ..., 1): the kind falls by one, and from 0 to d with all quotients one lower
        down = key - 1 if key & 7 else key - (ones << 3) + dimensions
        for direction in range(kinds):
            wanted = down
            if direction < dimensions:
                # and d + 1 more at place j; the last place is not part of the key
                wanted += np.int64(1) << (3 + bits * (dimensions - 1 - direction))
            slot = ((wanted * _GOLDEN) >> 33) & (slots - 1)
            while table[slot] >= 0 and table_keys[slot] != wanted:
                slot = (slot + 1) & (slots - 1)
            if table[slot] >= 0:
                # both ways at once: no other vertex has this one below it, so threads never write to one place
                neighbours[direction, vertex, 0] = table[slot]
                neighbours[direction, table[slot], 1] = vertex


def _scale(weights: np.ndarray, factors: np.ndarray) -> None:
    for point in numba.prange(len(weights)):
        for kind in range(weights.shape[1]):
            weights[point, kind] *= factors[point]


def _splat(
    values: np.ndarray,
    corners: np.ndarray,
    weights: np.ndarray,
    rows: np.ndarray,
    partial: np.ndarray,
    lanes: tuple[int, ...],
) -> None:
    for chunk in numba.prange(len(rows) - 1):
        own = partial[rows[chunk] : rows[chunk + 1]]
        own[:] = 0
        for point in range(chunk * CHUNK, min(len(values), (chunk + 1) * CHUNK)):
            for kind in range(corners.shape[1]):
                add_scaled(own, corners[point, kind], values, point, weights[point, kind], lanes)


def _collect(
    partial: np.ndarray, starts: np.ndarray, back: np.ndarray, grid: np.ndarray, lanes: tuple[int, ...]
) -> None:
    for vertex in numba.prange(len(starts) - 1):
        for c in range(grid.shape[1]):
            grid[vertex, c] = 0
        for place in range(starts[vertex], starts[vertex + 1]):
            add_scaled(grid, vertex, partial, back[place], np.float32(1), lanes)


def _blur(old: np.ndarray, neighbours: np.ndarray, new: np.ndarray, lanes: tuple[int, ...]) -> None:
    for vertex in numba.prange(len(neighbours)):
        blend(new, vertex, old, neighbours[vertex, 0], neighbours[vertex, 1], lanes)


def _slice(
    grid: np.ndarray,
    corners: np.ndarray,
    weights: np.ndarray,
    rows: np.ndarray,
    members: np.ndarray,
    gain: float,
    values: np.ndarray,
    lanes: tuple[int, ...],
) -> None:
    for chunk in numba.prange(len(rows) - 1):
        own = grid[members[rows[chunk] : rows[chunk + 1]]]
        for point in range(chunk * CHUNK, min(len(values), (chunk + 1) * CHUNK)):
            for c in range(values.shape[1]):
                values[point, c] = 0
            add_gathered(values, point, own, corners, weights, point, gain, lanes)


_FUNCTIONS: dict[str, Callable[..., None]] = {
    "embed": _embed,
    "find_neighbours": _find_neighbours,
    "scale": _scale,
    "splat": _splat,
    "collect": _collect,
    "blur": _blur,
    "slice": _slice,
}
parallel, serial = compiled(_FUNCTIONS, True), compiled(_FUNCTIONS, False)
