"""How doubtful every pseudo-mask of a run is, so that a person looks at the worst first. True masks have no say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.stats import rankdata

from tagseg.cores import prefetch
from tagseg.data.dataset import MaskFolder, Sample
from tagseg.data.images import read_image, read_index_png
from tagseg.data.map_store import MapStore
from tagseg.labels import IGNORE
from tagseg.segmentation.model import SegmentationModel

Advance = Callable[[int, str], None]
LOOKED_AT = 512  # long side, in pixels, at which mask and network are compared


@dataclass(frozen=True)
class Doubt:
    """What speaks against one pseudo-mask.

    score: the mean of its ranks in the three below among all photographs, 0 for the surest and 1 for the worst.
    disagreement: share of the pixels that either the mask or the network, which was told no tags, calls an object, and
        of which they do not say the same.
    denied: the probability that the classifier withholds from the tag that it believes least; 0 without tags.
    entropy: of the network's probabilities, the mean over pixels as a share of what it can be at most.
    tag: the tag that the classifier believes least, 0-based; None without tags.
    """

    score: float
    disagreement: float
    denied: float
    entropy: float
    tag: int | None


def doubts(
    model: SegmentationModel, samples: Sequence[Sample], masks: MaskFolder, maps: MapStore, advance: Advance
) -> list[Doubt]:
    """Returns the doubt of every pseudo-mask, in the order of the photographs.

    Args:
        model: the network that has learnt from the masks.
        samples: training photographs.
        masks: where their pseudo-masks lie.
        maps: what the classifier has said of them.
        advance: is told how many are done.
    """
    found: list[tuple[float, float, float, int | None]] = []

    def load(sample: Sample) -> tuple[Sample, np.ndarray, np.ndarray]:
        return sample, read_image(sample.image), read_index_png(masks(sample))

    for number, (sample, photo, mask) in enumerate(prefetch(load, samples), start=1):
        cells = model.on_cells(photo)
        size = tuple(max(1, round(n * min(1, LOOKED_AT / max(mask.shape)))) for n in mask.shape)
        predicted = model.network.backbone.grid.resize(torch.from_numpy(cells)[None], size)[0].argmax(dim=0).numpy()
        small = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        denied, tag = _denied(sample, maps)
        found.append((disagreement(predicted, small), denied, mean_entropy(cells), tag))
        advance(number, "")
    ranks = [_ranks(part) for part in ([f[0] for f in found], [f[1] for f in found], [f[2] for f in found])]
    scores = np.mean(ranks, axis=0).tolist() if found else []
    return [
        Doubt(round(score, 4), round(differs, 4), round(denied, 4), round(entropy, 4), tag)
        for score, (differs, denied, entropy, tag) in zip(scores, found, strict=True)
    ]


def disagreement(predicted: np.ndarray, mask: np.ndarray) -> float:
    """Returns the share of the pixels of objects in either of two `(H, W)` masks on which they differ; 0 if none has
    any. Unknown pixels do not count."""
    objects = ((predicted > 0) | (mask > 0)) & (mask != IGNORE)
    return float((predicted[objects] != mask[objects]).mean()) if objects.any() else 0.0


def mean_entropy(probabilities: np.ndarray) -> float:
    """Returns the mean entropy of `(C + 1, H, W)` over the pixels, as a share of what it can be at most."""
    entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=0)
    return float(entropy.mean() / np.log(len(probabilities)))


def _denied(sample: Sample, maps: MapStore) -> tuple[float, int | None]:
    said = np.nan_to_num(maps.read(sample.name).tag_probabilities, nan=1.0)
    if not sample.tags:
        return 0.0, None
    least = min(sample.tags, key=lambda tag: said[tag])
    return float(1 - said[least]), int(least)


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0 to 1; equal values share theirs."""
    return (rankdata(values) - 1) / max(1, len(values) - 1)
