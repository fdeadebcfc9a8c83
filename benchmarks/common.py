"""What the benchmarks share: their arguments, the words for a machine, and the words for values of several seeds."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tagseg.commands.measured import machine_in_words as machine  # noqa: F401, for all benchmarks
from tagseg.data.dataset import Dataset, Sample, read_mask
from tagseg.data.map_store import MapStore, StoredMaps
from tagseg.labels import IGNORE


def run_parser(description: str | None) -> argparse.ArgumentParser:
    """DATA, `--recipe` and `--set`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--recipe", default="cam")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    return parser


def seeds_parser(description: str | None) -> argparse.ArgumentParser:
    """The same, with `--out` and `--seeds`."""
    parser = run_parser(description)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


def maps_and_truth(data: Dataset, store: MapStore) -> Iterator[tuple[Sample, StoredMaps, np.ndarray, np.ndarray]]:
    """Every training photograph that has a true mask: what is stored of it, its maps `(K, H, W)`, and the mask."""
    for sample in data.train:
        if sample.mask is not None:
            truth, stored = read_mask(sample.mask), store.read(sample.name)
            yield sample, stored, stored.at(truth.shape), truth


def mean_spread_each(values: Sequence[float]) -> tuple[str, str, str]:
    """Mean, standard deviation over seeds (nan for one), and the values, each with one decimal."""
    spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.1f}", f"{spread:.1f}", ", ".join(f"{v:.1f}" for v in values)


def drawn_truth(sample: Sample) -> np.ndarray:
    """The true mask of a photograph as a picture: background black, objects white, what does not count grey."""
    assert sample.mask is not None
    mask = read_mask(sample.mask)
    grey = np.where(mask == IGNORE, 128, np.where(mask > 0, 255, 0))
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
