"""What is there to gain by weighing the blocks of a transformer, along whose attention class maps are spread?

    python benchmarks/blocks.py DATA --runs RUN ... --photographs 200

The runs are trained transformers of `tagseg fit` or `tagseg compare` that have the method ToCo or SS-EPA. Of each, the
class maps of the last block, at one scale, are spread along what patches attend to: along the mean of all blocks; along
the weights that the run has learnt; along the mean of the three blocks that each signal of HAAF prefers when it is told
the true labels of the patches (`affinity`: patches attend to their own label; `content`: and more than if labels lay
elsewhere); and along every block alone.

Background scores are chosen without masks. Masks choose what is called *oracle*: the block whose maps are best, and the
set of blocks, found by adding the one that helps most until none does. What lies between the mean and that set is what
weights that are the same for every photograph can be worth.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine

from tagseg.data.dataset import Sample, at_even_steps, read_mask
from tagseg.data.images import read_image
from tagseg.data.reading import read_dataset
from tagseg.evaluation.iou import ThresholdSweep
from tagseg.labels import IGNORE
from tagseg.masks.background import histogram, otsu_score
from tagseg.masks.rescaling import on_cells, over_maximum
from tagseg.methods.refinements.base import network_image
from tagseg.methods.saved import load_saved
from tagseg.methods.ss_epa import affinity_content_loss, affinity_share_loss


class Photograph:
    """What is asked of one photograph, of T tags and K blocks.

    plain: `(T, h w)`, the maps that are not spread.
    maps, sums: `(K, T, h w)` and `(K, h w)`, the maps spread along each block, and the sums of its rows.
    signals: `(2, K)`, the share of the attention to patches of the same label, and how much it is above that of labels
        laid elsewhere.
    weights: `(K,)` that the run has learnt; None where it learns none.
    """

    def __init__(self, network: Any, sample: Sample, side: int) -> None:
        assert sample.mask is not None
        self.tags, self.truth, self.grid = sample.tags, read_mask(sample.mask), network.backbone.grid
        tokens = network.backbone.tokens(
            network_image(network.backbone, read_image(sample.image), side), attention=True
        )
        attention, self.cells = tokens.attention, tokens.patches.shape[-2:]
        plain = network.classifier(tokens.patches).float().relu()[:, list(self.tags)]
        together = torch.cat([plain, torch.ones_like(plain[:, :1])], dim=1)  # the map of ones gives the sums of rows
        alone = torch.eye(len(attention.keys))[:, None]
        found = torch.stack([attention.spread(together, one)[0].flatten(1) for one in alone]).numpy()
        self.plain, self.maps, self.sums = plain[0].flatten(1).numpy(), found[:, :-1], found[:, -1]
        labels = torch.from_numpy(label_of_cells(self.truth, self.cells)).long()[None]
        own = [1 - affinity_share_loss(attention, labels, one) for one in alone]
        content = [-affinity_content_loss(attention, labels, one) for one in alone]
        self.signals = np.array([own, content])
        weigh = getattr(network, "block_weights", None)
        learnt = weigh(attention) if weigh is not None else None
        self.weights = None if learnt is None else learnt[0].numpy()

    def spread(self, weights: np.ndarray | None) -> np.ndarray:
        """The maps in [0, 1], `(T, h, w)`, spread along weights `(K,)`; None: not at all."""
        maps = self.plain
        if weights is not None:
            maps = np.tensordot(weights, self.maps, 1) / np.maximum(np.tensordot(weights, self.sums, 1), 1e-8)
            maps = maps - maps.min(axis=1, keepdims=True)  # attention reaches everywhere
        return np.ascontiguousarray(over_maximum(maps.reshape(-1, *self.cells)), dtype=np.float32)


def label_of_cells(truth: np.ndarray, cells: Sequence[int]) -> np.ndarray:
    """The label that most of a cell has, `(h, w)`; 255 where that is none or unknown."""
    labels = np.unique(truth)
    share = on_cells(np.stack([truth == label for label in labels]), tuple(cells))
    return np.where(share.max(axis=0) > 0.5, labels[share.argmax(axis=0)], IGNORE)


def miou(found: list[Photograph], weights: Sequence[np.ndarray | None], classes: int, step: int = 1) -> float:
    """mIoU in percent of the maps spread along the weights of each photograph, with a score chosen without masks; of
    every `step`-th pixel of every `step`-th row."""
    counts, sweep = np.zeros(256), ThresholdSweep(classes)
    for one, own in zip(found, weights, strict=True):
        maps, truth = one.spread(own), one.truth[::step, ::step]
        small = histogram(maps)
        counts += small / small.sum()
        sweep.add(one.grid.resize(maps, truth.shape), one.tags, truth)
    return 100 * sweep.at(otsu_score(counts)).scores().miou


def along(found: list[Photograph], weights: np.ndarray | None, classes: int, step: int = 1) -> float:
    """The same with weights that all photographs share."""
    return miou(found, [weights] * len(found), classes, step)


def best_set(found: list[Photograph], classes: int, blocks: int) -> list[int]:
    """The blocks that masks would choose, by a sixteenth of the pixels."""
    chosen: list[int] = []
    best = -1.0
    while len(chosen) < blocks:
        tried = {}
        for block in set(range(blocks)) - set(chosen):
            tried[block] = along(found, mean_of([*chosen, block], blocks), classes, step=4)
        block = max(tried, key=lambda b: tried[b])
        if tried[block] <= best:
            break
        best = tried[block]
        chosen.append(block)
    return chosen


def mean_of(chosen: Sequence[int], blocks: int) -> np.ndarray:
    """Weights of which the mean of some blocks is made."""
    return np.isin(np.arange(blocks), chosen).astype(float)


def numbers(blocks: Iterable[int]) -> str:
    """Blocks as they are counted, the first one 1."""
    return ", ".join(str(block + 1) for block in sorted(blocks))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--photographs", type=int, default=200, help="of the training, at even steps")
    parser.add_argument("--side", type=int, default=224)
    arguments = parser.parse_args()
    data = read_dataset(arguments.data)
    shown = at_even_steps([s for s in data.train if s.tags and s.mask is not None], arguments.photographs)
    classes = len(data.classes)
    print(f"{arguments.data.name}, {len(shown)} photographs, {machine()}\n")
    by_signal = "three by affinity | three by content"
    print(f"| | not spread | mean | learnt | {by_signal} | best block, oracle | best set, oracle |")
    for path in arguments.runs:
        network = load_saved(path / "train").eval()
        found = [Photograph(network, sample, arguments.side) for sample in shown]
        signals = np.mean([photograph.signals for photograph in found], axis=0)
        blocks = signals.shape[1]
        alone = [along(found, one, classes) for one in np.eye(blocks)]
        learnt = [photograph.weights for photograph in found]
        cells = [f"{along(found, weights, classes):.1f}" for weights in (None, np.ones(blocks))]
        cells.append("" if learnt[0] is None else f"{miou(found, learnt, classes):.1f}")
        for signal in signals:
            three = np.argsort(-signal)[:3].tolist()
            cells.append(f"{along(found, mean_of(three, blocks), classes):.1f} ({numbers(three)})")
        chosen = best_set(found, classes, blocks)
        cells.append(f"{max(alone):.1f} ({int(np.argmax(alone)) + 1})")
        cells.append(f"{along(found, mean_of(chosen, blocks), classes):.1f} ({numbers(chosen)})")
        print(f"| {'/'.join(path.parts[-2:])} | {' | '.join(cells)} |")
        print(f"    every block alone: {' '.join(f'{value:.1f}' for value in alone)}")
        for name, values in zip(("affinity", "content"), signals, strict=True):
            print(f"    {name}, %: {' '.join(f'{100 * value:.1f}' for value in values)}")
        if learnt[0] is not None:
            means = np.mean([weights for weights in learnt if weights is not None], axis=0)
            print(f"    learnt weights: {' '.join(f'{value:.2f}' for value in means)}", flush=True)


if __name__ == "__main__":
    main()
