"""What the values of a run's class maps are worth: how many pixels have each, and how many of those are true.

    python benchmarks/values.py RUN

Reads the true masks of the training photographs, after the run and for this table only.
"""

import argparse
from pathlib import Path

import numpy as np

from tagseg.data.dataset import read_mask
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import ThresholdSweep
from tagseg.files import read_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    data, store = read_dataset(read_json(run / "run.json")["data"]), MapStore(run / "mine")
    sweep = ThresholdSweep(len(data.classes))
    for sample in data.train:
        if sample.mask is not None:
            truth = read_mask(sample.mask)
            sweep.add(store.read(sample.name).at(truth.shape), sample.tags, truth)
    pixels = sweep.counts.sum(axis=(0, 1))
    true = np.einsum("ccv->v", sweep.counts[1:, 1:])
    tenth = np.minimum(np.arange(sweep.BINS) * 10 // (sweep.BINS - 1), 9)
    print("| strongest map value | share of all pixels | of these, the class is there |\n|---|---|---|")
    for t in range(10):
        inside = tenth == t
        share = true[inside].sum() / max(1, pixels[inside].sum())
        print(f"| {t / 10:.1f} to {t / 10 + 0.1:.1f} | {pixels[inside].sum() / pixels.sum():.0%} | {share:.0%} |")


if __name__ == "__main__":
    main()
