"""How fast, how like its peers, and how near to the exact filter: CRF, PAR, the walk, and folders of photographs.

    python benchmarks/refine.py PHOTOS [--size 375 500]

Peers are measured side by side where they are installed. pydensecrf does not install on Python 3.11 and newer as it is
published; its source does, once its two generated .cpp files are deleted, with Cython 0.29:
`pip install "cython<3" setuptools && pip install --no-build-isolation ./pydensecrf-1.0rc3`. Times are the best of five.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import machine

import tagseg
from tagseg.cores import cpu_count
from tagseg.data.images import read_image, write_mask
from tagseg.data.photographs import find_photographs
from tagseg.masks.crf import dense_crf, dense_crf_torch
from tagseg.masks.crf_parameters import CRF, CRFS
from tagseg.masks.par import pixel_adaptive_refinement, refine_par
from tagseg.masks.permutohedral import bilateral_features
from tagseg.masks.random_walk import directions, edge_links, random_walk

try:
    from pydensecrf.densecrf import DenseCRF2D
except ImportError:
    DenseCRF2D = None


def best(function: Callable[[], Any], repeats: int = 5) -> tuple[Any, float]:
    """Result, and milliseconds of the fastest of `repeats` calls after one that compiles and warms up."""
    result, seconds = function(), []
    for _ in range(repeats):
        begun = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - begun)
    return result, 1000 * min(seconds)


def smooth_probabilities(labels: int, height: int, width: int) -> np.ndarray:
    """As soft and as blotchy as class maps."""
    rough = np.random.default_rng(0).random((labels, height // 20 + 1, width // 20 + 1)).astype(np.float32)
    values = np.exp(6 * np.stack([cv2.resize(r, (width, height), interpolation=cv2.INTER_CUBIC) for r in rough]))
    return values / values.sum(axis=0)


def peer_crf(image: np.ndarray, probabilities: np.ndarray, crf: CRF) -> np.ndarray:
    labels, height, width = probabilities.shape
    peer = DenseCRF2D(width, height, labels)
    unary = -np.log(np.clip(probabilities, 1e-5, 1)).reshape(labels, -1)
    peer.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    peer.addPairwiseGaussian(sxy=crf.gaussian_xy, compat=crf.gaussian_weight)
    peer.addPairwiseBilateral(sxy=crf.bilateral_xy, srgb=crf.bilateral_rgb, rgbim=image, compat=crf.bilateral_weight)
    return np.array(peer.inference(crf.iterations)).reshape(labels, height, width)


def exact_crf(image: np.ndarray, probabilities: np.ndarray, crf: CRF) -> np.ndarray:
    """Mean field with every pair of pixels, in torch."""
    labels, height, width = probabilities.shape
    y, x = np.mgrid[:height, :width]
    position = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1) / crf.gaussian_xy)
    colour = torch.from_numpy(bilateral_features(image, crf.bilateral_xy, crf.bilateral_rgb)).double()
    energy = -torch.from_numpy(np.clip(probabilities, 1e-5, 1)).double().log().reshape(labels, -1).T
    total = torch.zeros(height * width, height * width, dtype=torch.float64)
    for features, weight in ((position, crf.gaussian_weight), (colour, crf.bilateral_weight)):
        kernel = (-(torch.cdist(features, features) ** 2) / 2).exp()
        norm = kernel.sum(dim=1).rsqrt()
        total += weight * norm[:, None] * kernel * norm
    belief = (-energy).softmax(dim=1)
    for _ in range(crf.iterations):
        belief = (total @ belief - energy).softmax(dim=1)
    return belief.T.reshape(labels, height, width).numpy()


def crf_speed(photo: np.ndarray) -> None:
    print(f"\n## Dense CRF, {photo.shape[0]} x {photo.shape[1]}, 10 iterations, set psa: milliseconds\n")
    columns = ("pydensecrf, one core", "here, one core", "here, all cores", "here, torch", "ratio")
    print(f"| labels | {' | '.join(columns)} | labels agree, mean difference |")
    print("|---|---|---|---|---|---|---|")
    for labels in (2, 4, 21):
        probabilities = smooth_probabilities(labels, *photo.shape[:2])
        here, all_cores = best(lambda p=probabilities: dense_crf(photo, p, "psa"))
        _, one_core = best(lambda p=probabilities: dense_crf(photo, p, "psa", threads=1))
        unary = -np.log(np.clip(probabilities, 1e-5, 1))
        _, in_torch = best(lambda u=unary: dense_crf_torch(photo, u, CRFS["psa"], "cpu"), repeats=1)
        if DenseCRF2D is None:
            row = ["not installed", f"{one_core:.0f}", f"{all_cores:.0f}", f"{in_torch:.0f}", "", ""]
        else:
            peer, peer_time = best(lambda p=probabilities: peer_crf(photo, p, CRFS["psa"]))
            agree = (peer.argmax(axis=0) == here.argmax(axis=0)).mean()
            row = [
                f"{peer_time:.0f}",
                f"{one_core:.0f}",
                f"{all_cores:.0f}",
                f"{in_torch:.0f}",
                f"{peer_time / all_cores:.1f}",
                f"{100 * agree:.3f} %, {np.abs(peer - here).mean():.1e}",
            ]
        print(f"| {labels} | " + " | ".join(row) + " |")


def crf_sets(photos: list[np.ndarray]) -> None:
    """Every set of parameters: against the peer at full size, and against the exact filter at 32 x 32."""
    print(f"\n## Dense CRF: labels that agree, and mean difference of marginals, 3 labels, {len(photos)} photographs\n")
    print("| set | with pydensecrf | with the exact filter, 32 x 32 |\n|---|---|---|")
    for name, crf in CRFS.items():
        rows: list[list[float]] = []
        for photo in photos:
            small = cv2.resize(photo, (32, 32), interpolation=cv2.INTER_AREA)
            few = smooth_probabilities(3, 100, 100)[:, ::3, ::3][:, :32, :32].copy()
            pairs = [(dense_crf(small, few, crf), exact_crf(small, few, crf))]
            if DenseCRF2D is not None:
                many = smooth_probabilities(3, *photo.shape[:2])
                pairs.insert(0, (dense_crf(photo, many, crf), peer_crf(photo, many, crf)))
            rows.append(
                [v for a, b in pairs for v in ((a.argmax(0) == b.argmax(0)).mean(), float(np.abs(a - b).mean()))]
            )
        means = np.mean(rows, axis=0)
        cells = [f"{100 * means[i]:.3f} %, {means[i + 1]:.1e}" for i in range(0, len(means), 2)]
        print(f"| {name} | " + " | ".join(cells if len(cells) == 2 else ["not installed", *cells]) + " |")


def par_speed(photo: np.ndarray) -> None:
    scores = smooth_probabilities(3, *photo.shape[:2])
    _, compiled = best(lambda: refine_par(photo, scores))
    _, one_core = best(lambda: refine_par(photo, scores, threads=1))
    size = tuple(round(s * 256 / max(photo.shape[:2])) for s in photo.shape[:2])
    pixels = torch.from_numpy(cv2.resize(photo, size[::-1])).permute(2, 0, 1)[None].float()
    rough = torch.from_numpy(scores)[None]
    rough = torch.nn.functional.interpolate(rough, size=size)
    _, in_torch = best(lambda: pixel_adaptive_refinement(pixels, rough))
    print(f"\n## PAR, 3 scores, long side 256, 10 iterations: milliseconds\n\n| torch, all cores | {in_torch:.0f} |")
    print(f"|---|---|\n| here, one core | {one_core:.0f} |\n| here, all cores | {compiled:.0f} |")


def walk_alone(kind: str, height: int, width: int) -> None:
    """In a process of its own, so that its peak of memory is its own: one walk, time and memory printed."""
    grid = (-(-height // 4), -(-width // 4))
    edge = cv2.resize(np.random.default_rng(0).random((24, 32)).astype(np.float32), grid[::-1])
    scores = smooth_probabilities(2, *grid)
    random_walk(scores[:, :9, :9], edge_links(edge[:9, :9], 5), 5, beta=10, log_steps=8)  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    if kind == "here":
        random_walk(scores, edge_links(edge, 5), 5, beta=10, log_steps=8)
    else:
        _dense_walk(torch.from_numpy(scores), edge_links(edge, 5))
    seconds = time.perf_counter() - begun
    print(f"{1000 * seconds:.0f} ms, {(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f} MB")


def _dense_walk(scores: torch.Tensor, links: np.ndarray) -> torch.Tensor:
    """The matrix of all pairs, as published: power, columns normalised, squared eight times."""
    _, height, width = scores.shape
    cells = torch.arange(height * width).reshape(height, width)
    matrix = torch.eye(height * width)
    for link, (dy, dx) in zip(torch.from_numpy(links), directions(5), strict=True):
        left, right = max(0, -dx), width - max(0, dx)
        one, other = cells[: height - dy, left:right], cells[dy:, left + dx : right + dx]
        matrix[one, other] = matrix[other, one] = link[: height - dy, left:right] ** 10
    matrix /= matrix.sum(dim=0)
    for _ in range(8):
        matrix = matrix @ matrix
    return scores.flatten(1) @ matrix


def walk_speed(height: int, width: int) -> None:
    print(f"\n## IRN's walk, {height} x {width}, 2 classes, 256 steps: time, and memory above the process before\n")
    print("| here | dense matrix |\n|---|---|")
    cells = []
    for kind in ("here", "dense"):
        command = [sys.executable, __file__, "-", "--walk", kind, "--size", str(height), str(width)]
        cells.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    print(f"| {cells[0]} | {cells[1]} |")


def folder_speed(photos: list[Path], images: list[np.ndarray]) -> None:
    print(f"\n## A folder of {len(photos)} photographs, PNG in and out: masks a second\n")
    print("| threads | crf | par | superpixels |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        rough = Path(name) / "rough"
        for path, image in zip(photos, images, strict=True):
            labels = smooth_probabilities(3, *image.shape[:2]).argmax(axis=0)
            write_mask(rough / f"{path.stem}.png", labels.astype(np.uint8))
        counts = sorted({1, cpu_count()})
        for count in counts:
            rates = []
            for refinement in ("crf", "par", "superpixels"):
                arguments = {"refine": refinement, "threads": count, "quiet": True}
                tagseg.refine(photos[:2], rough, Path(name) / "out", **arguments)
                rates.append(tagseg.refine(photos, rough, Path(name) / "out", **arguments).per_second)
            print(f"| {count} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    parser.add_argument("--count", type=int, default=60, help="photographs of the folder")
    parser.add_argument("--walk", choices=("here", "dense"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(cpu_count())
    if arguments.walk:
        walk_alone(arguments.walk, *arguments.size)
        return
    paths = list(find_photographs([arguments.photos]).values())[: arguments.count]
    images = [read_image(p) for p in paths]
    photo = cv2.resize(images[0], tuple(arguments.size[::-1]), interpolation=cv2.INTER_AREA)
    print(machine())
    crf_speed(photo)
    crf_sets(images[:10])
    par_speed(photo)
    walk_speed(*arguments.size)
    folder_speed(paths, images)


if __name__ == "__main__":
    main()
