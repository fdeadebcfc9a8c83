"""What the studies share: photographs with their truth and their maps, variants of the maps, and the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tagseg.attribution.fusion import SCALINGS, Scaling, fuse
from tagseg.cores import prefetch
from tagseg.data.dataset import Sample
from tagseg.data.images import read_image
from tagseg.explaining.classifiers import Classifier
from tagseg.explaining.crops import TenCrops
from tagseg.explaining.explainer import Explainer, MethodMaps
from tagseg.progress import Advance

BATCH = 8
GAMMA, GAMMAS = 2.0, (1.0, 3.0, 4.0)  # of equation 9: the published one, and the others that the thesis tries


@dataclass(frozen=True)
class Case:
    """One tagged photograph as the classifier saw it.

    `image (3, S, S)` is what went in, `scores (C,)` came out; `maps` holds by method the maps of the K true tags.
    """

    sample: Sample
    photo: np.ndarray
    image: torch.Tensor
    scores: torch.Tensor
    maps: dict[str, MethodMaps]

    def rank(self, tag: int) -> int:
        """Returns how many classes score higher than the tag."""
        return int((self.scores > self.scores[tag]).sum())


def cases_of(explainer: Explainer | TenCrops, samples: Sequence[Sample], advance: Advance) -> Iterator[Case]:
    """Yields the photographs that have tags, in order, with the maps of their true tags.

    `BATCH` of them go through the network at a time.
    """
    tagged = [sample for sample in samples if sample.tags]
    done = 0

    def load(batch: list[Sample]) -> tuple[list[Sample], list[np.ndarray], torch.Tensor]:
        photos = [read_image(sample.image) for sample in batch]
        return batch, photos, explainer.classifier.images(photos)

    batches = [tagged[start : start + BATCH] for start in range(0, len(tagged), BATCH)]
    for batch, photos, images in prefetch(load, batches, ahead=2):
        most = max(len(sample.tags) for sample in batch)
        # photographs with fewer tags repeat their last one, and drop the repetition again
        classes = torch.tensor([(*s.tags, *(s.tags[-1],) * (most - len(s.tags))) for s in batch], device=images.device)
        scores, _, maps = explainer(images, classes)
        for sample, photo, image, of_image, found in zip(batch, photos, images, scores, maps, strict=True):
            own = {m: MethodMaps(f.layers, [x[: len(sample.tags)] for x in f.maps]) for m, f in found.items()}
            yield Case(sample, photo, image, of_image, own)
        done += len(batch)
        advance(done, "")


@dataclass(frozen=True)
class Variant:
    """One way to a map: a method, and a layer or several of them fused under a scaling."""

    method: str
    layers: str
    scaling: Scaling = "tanh"
    numbers: tuple[int, ...] = ()
    gamma: float = GAMMA

    def maps(self, case: Case, size: tuple[int, int]) -> np.ndarray:
        """Returns the maps of a photograph by this way, `(K, H, W)` in [0, 1]."""
        found = case.maps[self.method].maps
        return (
            fuse([found[n][None] for n in self.numbers], size, scaling=self.scaling, gamma=self.gamma)[0].cpu().numpy()
        )

    @property
    def short(self) -> str:
        """Returns a short name for a column's head."""
        return f"{self.method} {self.layers.split(' (')[0]}"

    @property
    def name(self) -> str:
        """Returns the layers, and the scaling where it is not the published one."""
        if self.gamma != GAMMA:
            return f"{self.layers}, gamma {self.gamma:g}"
        return self.layers if self.scaling == "tanh" else f"{self.layers}, scaling {self.scaling}"

    @property
    def label(self) -> str:
        """Returns the method, the layers, and the scaling where it is not the published one."""
        return f"{self.method}, {self.name}"


def variants(case: Case, *, ablation: bool = False) -> list[Variant]:
    """Returns every method with every layer alone (deep to shallow), then with more and more layers fused.

    The deepest layers are fused with more and more shallow ones. With `ablation` there are also the other scalings of
    LayerCAM's, for every set of layers, and other gammas of its three deepest ones (thesis, tables 3.2 and 3.3).
    """
    found = []
    for method, maps in case.maps.items():
        count = len(maps.layers)
        for n in reversed(range(count)):
            found.append(Variant(method, _stage(n, count, maps.layers[n]), numbers=(n,)))
        for n in reversed(range(count - 1)):
            label = "+".join(f"S{i + 1}" for i in reversed(range(n, count)))
            found.append(Variant(method, label, numbers=tuple(range(n, count))))
        if ablation and method == "layercam":
            fused = [variant for variant in found if variant.method == method and len(variant.numbers) > 1]
            found += [replace(way, scaling=other) for way in fused for other in SCALINGS if other != "tanh"]
            found += [replace(way, gamma=gamma) for way in fused if len(way.numbers) == 3 for gamma in GAMMAS]
    return found


def _stage(number: int, count: int, name: str) -> str:
    return f"S{number + 1} ({name})" if count > 1 else name


def probability_of(classifier: Classifier, tag: int) -> Any:
    """Returns a function that gives the probability of one class. `images (N, 3, S, S) -> (N,)`.

    It looks at `BATCH` images at a time.
    """

    def score(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            parts = [classifier.probabilities(classifier.model(some))[:, tag] for some in images.split(BATCH)]
        return torch.cat(parts).cpu()

    return score
