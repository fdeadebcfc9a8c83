"""The fully connected CRF: Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011.

Every pixel talks to every other through two kernels, one of position alone and one of position and colour. Mean field
repeats `Q <- softmax(-U + sum_m w_m K_m Q)` (algorithm 1 with Potts labels), where K_m is a Gaussian filter on a
permutohedral lattice, symmetrically normalised, the pixel itself included: the conventions of the published packages,
whose parameters therefore carry over.

Three things are left out without changing the result. The filtered probabilities of all labels add up to the filtered
constant, which is known, so the last label is never filtered. Reading the lattice, softmax and spreading for the next
iteration are one pass, so that the probabilities exist for one pixel at a time. And the lattice of positions alone is
the same for all photographs of one size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
import torch

from tagseg.errors import BadInput, nearest
from tagseg.masks.permutohedral import CHUNK, Buffers, Lattice, compiled, run
from tagseg.masks.permutohedral_torch import dense_crf_torch
from tagseg.masks.vectors import add_gathered, add_scaled, exp, lanes_for, row_max, row_sum, width_for

_TILE = 32  # pixels whose probabilities exist at a time; divides a chunk


class CRF(NamedTuple):
    """Parameters: deviations in pixels and in colour levels of 0..255; weights; iterations.

    Of the unary energies: whether scores or only the strongest label of every pixel count, and how sure such a label is
    taken to be (`refine_crf`, `crf_from_labels`).
    """

    gaussian_xy: float
    gaussian_weight: float
    bilateral_xy: float
    bilateral_rgb: float
    bilateral_weight: float
    iterations: int = 10
    unary: Literal["scores", "labels"] = "scores"
    gt_prob: float = 0.7


CRFS = {
    "psa": CRF(3, 3, 80, 13, 10),  # Ahn and Kwak, CVPR 2018; also AEFT and 1-stage-wseg
    "irn-label": CRF(3, 3, 50, 5, 10, unary="labels"),  # Ahn et al., CVPR 2019; also AFA's utility
    "deeplab": CRF(1, 3, 67, 3, 4),  # DeepLab v2 as ported to PyTorch; also BECO, KTSE, CLIP-ES, MoRe, ExCEL
    "deeplab-oaa": CRF(3, 3, 121, 5, 4),  # the LargeFOV model of OAA
    "fma": CRF(2, 2, 65, 3, 4),  # FMA-WSSS
    "toco": CRF(1, 1, 121, 5, 4),  # segmentation of ToCo, DuPL, MCC, SeCo
    "toco-cam": CRF(3, 3, 36, 3, 4),  # class maps of ToCo
    "afa": CRF(3, 3, 64, 5, 4),  # segmentation of AFA and WeCLIP
    "mctformer": CRF(4, 3, 83, 5, 3),
    "weakclip": CRF(3, 3, 83, 5, 3),
}


def find_crf(name: str) -> CRF:
    """The published parameters called `name`.

    Raises:
        BadInput: there are none of that name.
    """
    if name not in CRFS:
        raise BadInput(f"CRF '{name}' does not exist{nearest(name, list(CRFS)) or '.'} Known: {', '.join(CRFS)}.")
    return CRFS[name]


def refine_crf(
    image: np.ndarray,
    scores: np.ndarray,
    *,
    crf: CRF | str = "psa",
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """As a refinement: `(H, W, 3)` uint8 and `(K + 1, H, W)` scores, not negative -> probabilities of the same shape.

    Raises:
        BadInput: sizes that differ, or scores that are negative or not finite.
    """
    crf = find_crf(crf) if isinstance(crf, str) else crf
    if crf.unary == "scores":
        return dense_crf(image, scores, crf, device=device, threads=threads)
    image, scores = check_scores(image, scores)
    return crf_from_labels(image, scores.argmax(axis=0), len(scores), crf, device=device, threads=threads)


def dense_crf(
    image: np.ndarray,
    probabilities: np.ndarray,
    crf: CRF | str = "psa",
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """Probabilities that follow the edges of the image.

    Args:
        image: `(H, W, 3)` or grey `(H, W)`, uint8.
        probabilities: `(L, H, W)` of L labels at every pixel, not negative; the unary energy is `-log` of them, clipped
            to 1e-5. Leave out labels that cannot be there: the time grows with L.
        crf: parameters, or the name of published ones (`CRFS`).
        device: "cpu" (the compiled lattice) or a GPU (the same in torch).
        threads: on the CPU, 1 or None for as many as torch uses.

    Returns:
        `(L, H, W)` float32, adding up to 1.

    Raises:
        BadInput: sizes that differ, or values that are not probabilities.
    """
    image, probabilities = check_scores(image, probabilities)
    if probabilities.min(initial=0) < 0:
        raise BadInput(f"the CRF wants probabilities, and was given {probabilities.min():g}; apply a softmax first.")
    unary = torch.from_numpy(probabilities).clamp(1e-5, 1).log_().neg_().numpy()
    return crf_from_unary(image, unary, crf, device=device, threads=threads)


def crf_from_labels(
    image: np.ndarray,
    labels: np.ndarray,
    count: int,
    crf: CRF | str = "irn-label",
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """The same from a hard label at every pixel.

    Args:
        labels: `(H, W)` integers 0..count - 1, each of which is believed with the probability `gt_prob`; 255 where
            nothing is known: all labels are equally likely there.
        count: L.

    Returns:
        `(L, H, W)` probabilities.

    Raises:
        BadInput: a label out of range.
    """
    crf = find_crf(crf) if isinstance(crf, str) else crf
    known = labels != 255
    if known.any() and not 0 <= labels[known].min() <= labels[known].max() < count:
        raise BadInput(f"labels must be 0..{count - 1}, or 255 where nothing is known; found {labels[known].max()}.")
    if count == 1:
        return np.ones((1, *labels.shape), np.float32)
    rest = (1 - crf.gt_prob) / (count - 1)
    sure = labels[None] == np.arange(count).reshape(-1, 1, 1)
    probabilities = np.where(known, np.where(sure, crf.gt_prob, rest), 1 / count).astype(np.float32)
    image, probabilities = check_scores(image, probabilities)
    return crf_from_unary(image, -np.log(probabilities), crf, device=device, threads=threads)


def crf_from_unary(
    image: np.ndarray,
    unary: np.ndarray,
    crf: CRF | str,
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """Mean field from unary energies `(L, H, W)`; the rest as in `dense_crf`."""
    crf = find_crf(crf) if isinstance(crf, str) else crf
    labels, height, width = unary.shape
    if labels == 1:
        return np.ones_like(unary, dtype=np.float32)
    if torch.device(device).type != "cpu":
        return dense_crf_torch(image, unary, crf, device)
    energy = unary.reshape(labels, -1).T
    smooth, smooth_one = _smooth_lattice(height, width, float(crf.gaussian_xy), threads == 1)
    edges = Lattice(bilateral_features(image, crf.bilateral_xy, crf.bilateral_rgb), threads)
    edges_one = edges.normalise()
    weights = np.float32(crf.gaussian_weight), np.float32(crf.bilateral_weight)
    return _mean_field(energy, crf.iterations, (smooth, edges), weights, (smooth_one, edges_one)).T.reshape(
        labels, height, width
    )


def crf_mask(
    image: np.ndarray,
    probabilities: np.ndarray,
    crf: CRF | str = "deeplab",
    *,
    least: float = 0.01,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """The strongest label after a CRF over the labels that may be there, out of many. `(L, H, W) -> (H, W)` uint8.

    Left out is every label whose probability is below `least` at all pixels; the first, the background, stays in.
    """
    kept = np.flatnonzero(probabilities.max(axis=(1, 2)) >= least)
    kept = np.union1d([0], kept)
    return kept[refine_crf(image, probabilities[kept], crf=crf, device=device).argmax(axis=0)].astype(np.uint8)


def check_scores(image: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image as `(H, W, 3)` uint8 and scores `(L, H, W)` as float32, if they can be refined.

    Raises:
        BadInput: another size, number of axes, or type, or a score that is not a number.
    """
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise BadInput(
            f"the image must be (H, W, 3) or (H, W) uint8, and is {image.shape} {image.dtype}; "
            "read it with tagseg.data.images.read_image."
        )
    if scores.ndim != 3 or scores.shape[1:] != image.shape[:2]:
        raise BadInput(
            f"the scores are {scores.shape} and the image {image.shape[:2]}; resize them to (K, H, W) of the image."
        )
    if not len(scores):
        raise BadInput("there are no scores: give one channel for the background and one for every class.")
    scores = np.asarray(scores, dtype=np.float32)
    if not np.isfinite(scores).all():
        raise BadInput(f"{int((~np.isfinite(scores)).sum())} scores are not finite numbers; mend the map they are of.")
    return image, scores


def position_features(height: int, width: int, deviation: float) -> np.ndarray:
    """`(H W, 2)`: x and y over their deviation."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([x.ravel(), y.ravel()], axis=1) / np.float32(deviation)


def bilateral_features(image: np.ndarray, deviation_xy: float, deviation_rgb: float) -> np.ndarray:
    """`(H W, 5)`: x, y, and the three colours over their deviations."""
    height, width = image.shape[:2]
    features = np.empty((height, width, 5), np.float32)
    features[..., 0] = np.arange(width, dtype=np.float32) / np.float32(deviation_xy)
    features[..., 1] = np.arange(height, dtype=np.float32)[:, None] / np.float32(deviation_xy)
    np.divide(image, np.float32(deviation_rgb), out=features[..., 2:])
    return features.reshape(-1, 5)


@functools.lru_cache(maxsize=4)
def _smooth_lattice(height: int, width: int, deviation: float, alone: bool) -> tuple[Lattice, np.ndarray]:
    lattice = Lattice(position_features(height, width, deviation), threads=1 if alone else None)
    return lattice, lattice.normalise()


def _mean_field(
    energy: np.ndarray,
    iterations: int,
    lattices: tuple[Lattice, Lattice],
    weights: tuple[np.float32, np.float32],
    ones: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """`(N, L)` energies and two normalised lattices -> `(N, L)` probabilities."""
    size, labels = energy.shape
    lanes, width = lanes_for(labels - 1), width_for(labels - 1)
    relative = np.empty((size, width), np.float32)  # energies above that of the last label
    relative[:, labels - 1 :] = 1e9  # no label
    np.subtract(energy[:, :-1], energy[:, -1:], out=relative[:, : labels - 1], casting="same_kind")
    constant = weights[0] * ones[0] + weights[1] * ones[1]
    result = np.empty((size, labels), np.float32)
    buffers = [Buffers(lattice, width) for lattice in lattices]
    kernels = _parallel if lattices[0].kernels.parallel else _serial
    sides: list[Any] = []
    for lattice, buffer, weight in zip(lattices, buffers, weights, strict=True):
        sides.append((lattice.corners, lattice.weights, lattice.rows, lattice.members, weight * lattice.gain, buffer))
    for step in range(iterations + 1):
        arguments = [
            (corners, shares, rows, members, factor, buffer.grid, buffer.partial)
            for corners, shares, rows, members, factor, buffer in sides
        ]
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
                add_scaled(tile, t, relative, point, np.float32(-1), lanes)
                highest = row_max(tile, t, lanes)
                top[t] = highest if highest > rest[t] else rest[t]
                add_scaled(tile, t, ones, 0, -top[t], lanes)
            for t in range(count):
                rest[t] = exp(rest[t] - top[t])
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
                for kind in range(3):
                    corner, weight = corners_s[point, kind], weights_s[point, kind]
                    add_scaled(own_s, corner, tile, t, inverse * weight, lanes)
                for kind in range(6):
                    corner, weight = corners_e[point, kind], weights_e[point, kind]
                    add_scaled(own_e, corner, tile, t, inverse * weight, lanes)


_KERNELS: dict[str, Callable[..., None]] = {"step": _step}
_parallel, _serial = compiled(_KERNELS, True), compiled(_KERNELS, False)
