"""The fully connected CRF: Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011.

Every pixel talks to every other through two kernels, one of position alone and one of position and colour. Mean field
repeats `Q <- softmax(-U + sum_m w_m K_m Q)` (algorithm 1 with Potts labels), where K_m is a Gaussian filter on a
permutohedral lattice, symmetrically normalised, the pixel itself included: the conventions of the published packages,
whose parameters therefore carry over.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from tagseg.errors import BadInput
from tagseg.masks.checks import check_scores
from tagseg.masks.crf_parameters import CRF, find_crf
from tagseg.masks.mean_field import mean_field
from tagseg.masks.permutohedral import Lattice, bilateral_features, position_features
from tagseg.masks.permutohedral_torch import TorchLattice

_KEPT_PIXELS = 1 << 20  # lattices of positions of larger photographs are not kept


def refine_crf(
    image: np.ndarray,
    scores: np.ndarray,
    *,
    crf: CRF | str = "deeplab",
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """Refines scores by the fully connected CRF.

    `(H, W, 3)` uint8 and `(K + 1, H, W)` scores, not negative -> probabilities of the same shape.

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
    crf: CRF | str = "deeplab",
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
) -> np.ndarray:
    """Returns probabilities that follow the edges of the image, by the fully connected CRF.

    Args:
        image: `(H, W, 3)` or grey `(H, W)`, uint8.
        probabilities: `(L, H, W)` of L labels at every pixel, not negative; the unary energy is `-log` of them, clipped
            to 1e-5. Leave out labels that cannot be there: the time grows with L.
        crf: parameters, or the name of published ones (`CRFS`).
        device: a CUDA device (the lattice in torch), or any other (the compiled lattice, on the CPU).
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
    """Returns probabilities that follow the edges of the image, from a hard label at every pixel.

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
    """Returns probabilities by mean field from unary energies `(L, H, W)`.

    The other arguments and the result are those of `dense_crf`.
    """
    crf = find_crf(crf) if isinstance(crf, str) else crf
    labels, height, width = unary.shape
    if labels == 1:
        return np.ones_like(unary, dtype=np.float32)
    if torch.device(device).type == "cuda":
        return dense_crf_torch(image, unary, crf, device)
    energy = unary.reshape(labels, -1).T
    build = _smooth_lattice if height * width <= _KEPT_PIXELS else _smooth_lattice.__wrapped__
    smooth, smooth_one = build(height, width, float(crf.gaussian_xy), threads == 1)
    edges = Lattice(bilateral_features(image, crf.bilateral_xy, crf.bilateral_rgb), threads)
    edges_one = edges.normalise()
    weights = np.float32(crf.gaussian_weight), np.float32(crf.bilateral_weight)
    result = mean_field(energy, crf.iterations, (smooth, edges), weights, (smooth_one, edges_one))
    return result.T.reshape(labels, height, width)


def crf_mask(
    image: np.ndarray,
    probabilities: np.ndarray,
    crf: CRF | str = "deeplab",
    *,
    least: float = 0.01,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Returns the strongest label after a CRF over the labels that may be there, out of many.

    `(L, H, W) -> (H, W)` uint8. Left out is every label whose probability is below `least` at all pixels; the first,
    the background, stays in.
    """
    kept = np.flatnonzero(probabilities.max(axis=(1, 2)) >= least)
    kept = np.union1d([0], kept)
    return kept[refine_crf(image, probabilities[kept], crf=crf, device=device).argmax(axis=0)].astype(np.uint8)


@functools.lru_cache(maxsize=4)
def _smooth_lattice(height: int, width: int, deviation: float, alone: bool) -> tuple[Lattice, np.ndarray]:
    lattice = Lattice(position_features(height, width, deviation), threads=1 if alone else None)
    return lattice, lattice.normalise()


@torch.inference_mode()
def dense_crf_torch(image: np.ndarray, unary: np.ndarray, crf: CRF, device: torch.device | str) -> np.ndarray:
    """Computes mean field from unary energies on a device, in torch; see `tagseg.masks.crf.crf_from_unary`."""
    labels, height, width = unary.shape
    smooth = TorchLattice(torch.from_numpy(position_features(height, width, crf.gaussian_xy)).to(device))
    edges = TorchLattice(torch.from_numpy(bilateral_features(image, crf.bilateral_xy, crf.bilateral_rgb)).to(device))
    smooth.normalise()
    edges.normalise()
    energy = torch.from_numpy(np.ascontiguousarray(unary.reshape(labels, -1).T)).to(device, torch.float32)
    belief = (-energy).softmax(dim=1)
    for _ in range(crf.iterations):
        messages = crf.gaussian_weight * smooth.filter(belief) + crf.bilateral_weight * edges.filter(belief)
        belief = (messages - energy).softmax(dim=1)
    return belief.T.reshape(labels, height, width).cpu().numpy()
