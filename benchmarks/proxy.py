"""What spreading makes of class maps, setting by setting: mIoU of pseudo-masks of training photographs.

    python benchmarks/proxy.py DATA --run RUN --every 3 --set encoder.name=NAME --set encoder.weights=FILE

RUN is a run of `tagseg fit DATA --until mine` (or later), whose class maps are spread. Every row changes one thing of
the defaults: the block whose patches are compared, keys in their place, several blocks joined, the side at which
photographs are seen, a sliding window, beta, gamma, two steps. The background score is chosen without masks, as in
`fit`; the *oracle* score beside it is not. `--refine` names what follows after the spreading by the defaults.

These rows choose settings, on masks of training photographs: take `--every` so that a share of them is enough.
"""

import time
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, run_parser
from torch.nn import functional as F

from tagseg.data.dataset import Dataset, Sample, read_mask
from tagseg.data.images import read_image
from tagseg.data.map_store import MapStore
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import Confusion, ThresholdSweep
from tagseg.grid import Grid
from tagseg.masks.background import histogram, label_mask, otsu_score, with_background
from tagseg.masks.proxy import spread
from tagseg.masks.rescaling import on_cells, over_maximum
from tagseg.networks.backbone import Backbone
from tagseg.networks.features import Levels
from tagseg.pipeline.masking import refine_scores
from tagseg.pipeline.mining import through_windows
from tagseg.pipeline.settings import FitSettings, parse_assignments, resolve
from tagseg.segmentation.encoder import Encoder, side_by_side

BETAS, GAMMAS = (0.8, 0.9, 1.0, 1.2, 1.4), (2.0, 3.0, 4.0, 6.0, 10.0)
SIDES = (224, 336, 560, 672)


class Block(Backbone):
    """The patches of one block, after or before the last normalisation, or the keys of its attention.

    Args:
        levels: the network, whose own parts are used.
        number: of the block, from 0.
        kind: "patches", "normalised" or "keys".
        window: side of a sliding window, pixels; None: photographs are seen whole.
    """

    def __init__(self, levels: Levels, number: int, kind: str = "patches", window: int | None = None) -> None:
        torch.nn.Module.__init__(self)
        for name in ("name", "network", "mean", "std", "grid", "local"):
            setattr(self, name, getattr(levels, name))
        self.channels, self.number, self.kind, self.window = levels.depth, number, kind, window

    def features(self, images: torch.Tensor) -> torch.Tensor:
        if self.window is None:
            return self.seen(images)
        side, _ = self.grid.fit(self.window, self.window)
        step = side // 2 // self.grid.stride * self.grid.stride
        return through_windows(self.seen, images, side, step, self.grid)

    def seen(self, images: torch.Tensor) -> torch.Tensor:
        wanted = self.number - (self.kind == "keys")
        (found,) = self.network.forward_intermediates(
            images, indices=[wanted], norm=self.kind == "normalised", intermediates_only=True, output_fmt="NCHW"
        )
        if self.kind != "keys":
            return found
        block = self.network.blocks[self.number]
        keys = block.attn.qkv(block.norm1(found.permute(0, 2, 3, 1))).chunk(3, dim=-1)[1]
        return keys.permute(0, 3, 1, 2)


class Trial:
    """The photographs that are tried, their class maps, and their truth."""

    def __init__(self, data: Dataset, run: Path, every: int, settings: FitSettings) -> None:
        self.data, self.settings, self.store = data, settings, MapStore(run / "mine")
        self.samples = tuple(s for s in data.train if s.mask is not None and s.tags)[::every]
        self.seen: dict[Any, dict[str, np.ndarray]] = {}

    def features(self, key: Any, network: Backbone, side: int) -> dict[str, np.ndarray]:
        """What a network sees in the photographs, kept for the last few questions."""
        if key not in self.seen:
            while len(self.seen) > 3:
                self.seen.pop(next(iter(self.seen)))
            encoder: Encoder[Any] = Encoder(network, side)
            work: Callable[[Sample], np.ndarray] = lambda s: encoder(read_image(s.image)).astype(np.float16)  # noqa: E731
            names = (s.name for s in self.samples)
            self.seen[key] = dict(zip(names, side_by_side(work, self.samples), strict=True))
        return self.seen[key]

    def maps(self, cells: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Class maps on the cells of features."""
        return {n: on_cells(self.store.read(n).at((4 * h, 4 * w)), (h, w)) for n, (h, w) in cells.items()}

    def row(self, label: str, maps: dict[str, np.ndarray], grid: Grid) -> None:
        counts, sweep = np.zeros(256), ThresholdSweep(len(self.data.classes))
        for sample in self.samples:
            counts += histogram(maps[sample.name]) / maps[sample.name][0].size
            truth = truth_of(sample)
            sweep.add(grid.resize(maps[sample.name], truth.shape), sample.tags, truth)
        chosen = otsu_score(counts)
        best, oracle = sweep.oracle()
        miou = 100 * sweep.at(chosen).scores().miou
        print(f"| {label} | {miou:.1f} | {chosen:.2f} | {100 * oracle:.1f} | {best:.2f} |", flush=True)

    def after(self, refine: str, maps: dict[str, np.ndarray], grid: Grid) -> None:
        """mIoU of what refinements make of maps, at the score that the maps choose."""
        counts = sum(histogram(maps[s.name]) / maps[s.name][0].size for s in self.samples)
        chosen, confusion, seconds = otsu_score(np.asarray(counts)), Confusion(len(self.data.classes)), 0.0
        settings = self.settings.masks.model_copy(update={"refine": refine})
        for sample in self.samples:
            photo = read_image(sample.image)
            scores = with_background(grid.resize(maps[sample.name], photo.shape[:2]), chosen)
            begun = time.perf_counter()
            refined = refine_scores(photo, scores, settings, sample.name)
            seconds += time.perf_counter() - begun
            confusion.add(label_mask(refined, sample.tags), truth_of(sample))
        miou, each = 100 * confusion.scores().miou, 1000 * seconds / len(self.samples)
        print(f"| {refine} | {miou:.1f} | {each:.0f} |", flush=True)


def truth_of(sample: Sample) -> np.ndarray:
    assert sample.mask is not None
    return read_mask(sample.mask)


def spread_all(
    features: dict[str, np.ndarray], maps: dict[str, np.ndarray], beta: float, gamma: float, steps: int = 1
) -> dict[str, np.ndarray]:
    found = {}
    for name, values in maps.items():
        now = torch.from_numpy(np.ascontiguousarray(values))
        for _ in range(steps):
            now = spread(torch.from_numpy(features[name]).float(), now, beta, gamma)
        found[name] = over_maximum(now.numpy())
    return found


def joined(parts: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Unit vectors of several blocks, one after the other."""
    several = list(parts)
    unit: Callable[[np.ndarray], np.ndarray] = lambda f: F.normalize(torch.from_numpy(f).float(), dim=0).numpy()  # noqa: E731
    return {name: np.concatenate([unit(part[name]) for part in several]) for name in several[0]}


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--every", type=int, default=3)
    parser.add_argument("--refine", nargs="*", default=["none", "par", "crf", "par+crf", "superpixels"])
    arguments = parser.parse_args()
    settings = resolve(arguments.recipe, parse_assignments(arguments.set))
    encoder, proxy = settings.encoder, settings.masks.of("proxy")
    trial = Trial(read_dataset(arguments.data), arguments.run, arguments.every, settings)
    levels = Levels(encoder.name, encoder.weights)
    last = len(levels.network.blocks) - 1
    print(f"{len(trial.samples)} photographs, {encoder.name}, {encoder.side} pixels, {machine()}\n")
    print("| maps | mIoU | its score | *oracle* | its score |\n|---|---|---|---|---|")

    def at(
        label: str,
        features: dict[str, np.ndarray],
        beta: float = proxy.beta,
        gamma: float = proxy.gamma,
        steps: int = 1,
    ) -> dict[str, np.ndarray]:
        maps = trial.maps({name: f.shape[1:] for name, f in features.items()})
        found = spread_all(features, maps, beta, gamma, steps)
        trial.row(label, found, levels.grid)
        return found

    usual = trial.features("usual", Block(levels, last), encoder.side)
    cells = {name: f.shape[1:] for name, f in usual.items()}
    trial.row("as they are", trial.maps(cells), levels.grid)
    spread_maps = at("spread by the defaults", usual)
    for beta, gamma in product(BETAS, GAMMAS):
        if (beta == proxy.beta) != (gamma == proxy.gamma):
            at(f"beta {beta}, gamma {gamma}", usual, beta, gamma)
    at("two steps", usual, steps=2)
    at("two steps, gamma 10", usual, gamma=10.0, steps=2)
    blocks = {}
    for number in range(last // 2, last):
        blocks[number] = trial.features(number, Block(levels, number), encoder.side)
        at(f"block {number + 1} of {last + 1}", blocks[number])
    at(
        f"blocks {', '.join(str(n + 1) for n in levels.levels)} joined",
        joined(blocks.get(n, usual) for n in levels.levels),
    )
    for kind in ("normalised", "keys"):
        at(f"{kind} of the last block", trial.features(kind, Block(levels, last, kind), encoder.side))
    for side in SIDES:
        at(f"side {side}", trial.features(side, Block(levels, last), side))
    windows = Block(levels, last, window=encoder.side)
    at(f"side 672, windows of {encoder.side}", trial.features("windows", windows, 672))
    print("\n| after spreading | mIoU | ms a photograph |\n|---|---|---|")
    for refine in arguments.refine:
        trial.after(refine, spread_maps, levels.grid)


if __name__ == "__main__":
    main()
