"""Class maps of any classifier's layers, as LayerCAM's (Jiang et al., TIP 2021), in the place of the network's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.attribution.excitation_backprop import ContrastiveExcitation
from tagseg.attribution.formulas import FORMULAS
from tagseg.attribution.fusion import fuse
from tagseg.attribution.gradient import GradientMaps
from tagseg.data.dataset import Sample
from tagseg.data.reading import FileFacts
from tagseg.errors import BadInput
from tagseg.grid import PIXELS, Grid
from tagseg.methods.base import Method
from tagseg.methods.tag_classifier import TagClassifier
from tagseg.pipeline.mining import PRESENT, Miner, mine
from tagseg.pipeline.parts import Part
from tagseg.pipeline.settings import MineSettings
from tagseg.progress import Advance

CELL = 4  # pixels of the photograph, as the network sees it at the largest scale, to a cell of the maps that are kept


class AttributionMiner(Miner):
    """What makes class maps by an attribution, its layers fused, averaged over scales and flips.

    Only maps of classes that are asked for are made; those of others are 0.
    """

    from_minimum = False  # an attribution is signed, and 0 says nothing

    def __init__(self, method: Method, settings: MineSettings) -> None:
        super().__init__(method, settings)
        layers = settings.layers if isinstance(settings.layers, str) else list(settings.layers)
        classifier, name = TagClassifier(self.method), settings.attribution
        self.classifier = classifier
        self.layer_maps: ContrastiveExcitation | GradientMaps
        if name == "cmwp":
            self.layer_maps = ContrastiveExcitation(classifier, layers)
        else:
            self.layer_maps = GradientMaps(classifier, layers, {name: FORMULAS[name]})

    @property
    def grid(self) -> Grid:
        """Returns where the cells of the maps lie: they tile the photograph."""
        return PIXELS

    def __call__(
        self, photos: list[np.ndarray], tags: Sequence[Sequence[int]] = (), predicted: bool = False
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns maps and tag probabilities of photographs that share their network sizes.

        Args:
            photos: B arrays `(H, W, 3)` uint8 whose `sizes` are equal.
            tags: for each the classes whose maps are made.
            predicted: whether those of the classes that are found are made too.

        Returns:
            for each the maps `(C, h, w)` float32 in [0, 1], and tag probabilities `(B, C)`.
        """
        sizes = self.sizes(*photos[0].shape[:2])
        cells = tuple(-(-max(size[axis] for size in sizes) // CELL) for axis in range(2))
        chosen: list[list[int]] = [list(own) for own in tags]
        if predicted:
            chosen = [own + more for own, more in zip(chosen, self._found(photos, sizes, chosen), strict=True)]
        most = max(1, *map(len, chosen))  # as many for each; what fills up a row is not looked at
        classes = torch.tensor([(own + (own or [0])[:1] * most)[:most] for own in chosen], device=self.device)
        logits: list[torch.Tensor] = []
        total = torch.zeros(len(photos), most, *cells)
        for size in sizes:
            pixels = self.pixels(photos, size)
            for flipped in (False, True)[: 1 + self.settings.flip]:
                seen = pixels.flip(-1) if flipped else pixels
                scores, maps = self.layer_maps.with_scores(seen, classes)
                logits.append(scores.float())
                layers = maps[self.settings.attribution] if isinstance(maps, dict) else maps
                fused = fuse(layers, size, scaling=self.settings.scaling)
                fused = F.interpolate(fused.flip(-1) if flipped else fused, size=cells, mode="area").cpu()
                total += fused
        count = len(self.method.classes)
        found = []
        for own, of_one in zip(chosen, total.numpy(), strict=True):
            maps_of_one = np.zeros((count, *cells), dtype=np.float32)
            maps_of_one[own] = of_one[: len(own)]
            found.append(maps_of_one / len(logits))
        return found, self.method.probabilities(torch.stack(logits).mean(dim=0)).cpu().numpy()

    @torch.inference_mode()
    def _found(
        self, photos: list[np.ndarray], sizes: Sequence[tuple[int, int]], known: list[list[int]]
    ) -> list[list[int]]:
        """The classes that the classifier finds in each photograph, over all sizes and flips, beside those that are
        known."""
        logits = [
            self.classifier(pixels.flip(-1) if flipped else pixels).float()
            for pixels in (self.pixels(photos, size) for size in sizes)
            for flipped in (False, True)[: 1 + self.settings.flip]
        ]
        found = self.method.probabilities(torch.stack(logits).mean(dim=0)) > PRESENT
        return [
            [c for c in row.nonzero()[:, 0].tolist() if c not in own] for own, row in zip(known, found, strict=True)
        ]


def miner_of(method: Method, settings: MineSettings) -> Miner:
    """Returns what makes the class maps of photographs, as the settings say."""
    return (Miner if settings.attribution == "own" else AttributionMiner)(method, settings)


def check_attribution(method: Method, settings: MineSettings) -> None:
    """Tries an attribution on one small picture, so that what cannot work is said before anything is trained.

    Raises:
        BadInput: there are no such layers, or the network's tags have no gradients, or the attribution finds nothing.
    """
    side = max(method.backbone.grid.fit(64, 64))
    small = settings.model_copy(update={"side": side, "scales": (1.0,), "flip": False})
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    cmwp = settings.attribution == "cmwp"  # of one class of many it may find nothing
    classes = tuple(range(min(8, len(method.classes)) if cmwp else 1))
    maps, _ = AttributionMiner(method, small)([picture], [classes])
    if cmwp and not maps[0].any():
        # what is sent down is shared out by positive evidence, which a score that is no sum of it does not have
        raise BadInput(
            "mine.attribution=cmwp finds nothing in this network, whose scores are no plain sums of evidence; take "
            "layercam."
        )


def mine_part(
    method: Method,
    settings: MineSettings,
    samples: tuple[Sample, ...],
    facts: FileFacts,
    folder: Path,
    *,
    part: Part,
    advance: Advance,
    with_predicted: bool = False,
) -> None:
    """Stores a part of the maps of photographs as `mine` does, by a classifier that may come from another process."""
    mine(miner_of(method, settings), samples, facts, folder, advance, with_predicted=with_predicted, part=part)
