"""Why a walk helps or hurts: how right the labels are that it learns from, and how far it would get with true borders.

    python benchmarks/walk_limits.py RUN

RUN is a run of `tagseg fit DATA --refine irn` (or psa), `--until masks` or later, on a data set with masks. The true
borders are seen by this command only.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from tagseg.data.dataset import read_mask
from tagseg.data.images import read_index_png
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import ThresholdSweep
from tagseg.files import read_json
from tagseg.labels import IGNORE
from tagseg.masks.random_walk import edge_links, random_walk
from tagseg.methods.refinements.base import shrink


def true_edges(truth: np.ndarray) -> np.ndarray:
    """1 in every cell of 4 x 4 pixels that a border of the true mask crosses."""
    border = np.zeros(truth.shape, np.float32)
    border[:, 1:] = truth[:, 1:] != truth[:, :-1]
    border[1:] = np.maximum(border[1:], truth[1:] != truth[:-1])
    size = (-(-truth.shape[1] // 4), -(-truth.shape[0] // 4))
    return (cv2.resize(border, size, interpolation=cv2.INTER_AREA) > 0).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    data = read_dataset(read_json(run / "run.json")["data"])
    before, after = MapStore(run / "mine"), MapStore(run / "affinity" / "maps")
    names = ("maps as mined", "maps after the walk that was learnt", "maps after a walk between true borders")
    sweeps = {name: ThresholdSweep(len(data.classes)) for name in names}
    pixels = np.zeros(5)  # object, of it right; background, of it right; unknown
    for sample in data.train:
        if sample.mask is None or not sample.tags:
            continue
        truth = read_mask(sample.mask)
        labels, known = read_index_png(run / "affinity" / "labels" / f"{sample.name}.png"), truth != IGNORE
        objects, background = known & (labels > 0) & (labels != IGNORE), known & (labels == 0)
        right = labels == truth
        pixels += [v.sum() for v in (objects, objects & right, background, background & right, known)]
        maps = before.read(sample.name).at(truth.shape)
        edge = true_edges(truth)
        walked = random_walk(shrink(maps, edge.shape) * (1 - edge), edge_links(edge, 5), 5, beta=10, log_steps=8)
        walked = np.stack([cv2.resize(w, truth.shape[::-1]) for w in walked / max(float(walked.max()), 1e-8)])
        learnt = after.read(sample.name).at(truth.shape)
        for name, values in zip(names, (maps, learnt, walked), strict=True):
            sweeps[name].add(values, sample.tags, truth)
    shares = pixels[[0, 2]] / pixels[4]
    print("| labels | share of the pixels | right |\n|---|---|---|")
    for name, share, place in (("object", shares[0], 0), ("background", shares[1], 2)):
        print(f"| {name} | {100 * share:.0f} % | {100 * pixels[place + 1] / pixels[place]:.0f} % |")
    print(f"| unknown | {100 * (1 - shares.sum()):.0f} % | |\n")
    print("| | mIoU at the oracle score |\n|---|---|")
    for name, sweep in sweeps.items():
        print(f"| {name} | {100 * sweep.oracle()[1]:.1f} |")


if __name__ == "__main__":
    main()
