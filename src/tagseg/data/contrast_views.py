"""The views of ToCo: one window seen in two colourings, and another window of the same photograph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch

from tagseg.data.dataset import Sample
from tagseg.data.images import read_image
from tagseg.data.loading import PixelStatistics, TrainingViews, normalise
from tagseg.data.photometry import distort
from tagseg.data.views import View, ViewSpec, flip, whole

SHARES = (0.4, 1.0)  # of the photograph that the other window shows
RATIOS = (3 / 4, 4 / 3)  # its width over its height


class ContrastViews(TrainingViews):
    """Training views in two colourings, and beside them another window of the same photograph.

    Beside what `TrainingViews` gives, whose image is jittered and blurred, they hold `again (3, S, S)`, the same window
    in other colours, from which small crops are cut; `draw`, a seed by which they are drawn; and `other (3, S, S)`,
    another window.

    Args:
        samples, num_classes, statistics, spec: see `TrainingViews`.
        mirror_apart: whether image and `again` are mirrored once more, each by its own chance, and `inside` is not
            (ToCo's published code).
    """

    def __init__(
        self,
        samples: tuple[Sample, ...],
        num_classes: int,
        statistics: PixelStatistics,
        spec: ViewSpec,
        *,
        mirror_apart: bool = False,
    ) -> None:
        super().__init__(samples, num_classes, statistics, spec)
        self.mirror_apart = mirror_apart

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        rng = np.random.default_rng((self.spec.seed, epoch, index))
        photo = whole(read_image(self.samples[index].image))
        window = self.cut(photo, rng)
        first, again = (flip(window) if self.mirror_apart and rng.random() < 0.5 else window for _ in range(2))
        item = self.item(index, distort(first, rng, blur=1.0))
        item["inside"] = torch.tensor(window.inside)  # not that of the image, where it was mirrored once more
        item["again"] = normalise(distort(again, rng, blur=0.5).image, self.statistics)
        other = distort(resized_window(photo, self.spec.side, rng), rng, blur=0.1, solarise=0.2)
        item["other"] = normalise(other.image, self.statistics)
        item["draw"] = int(rng.integers(1 << 62))
        return item


def resized_window(photo: View, side: int, rng: np.random.Generator) -> View:
    """Returns a random part of a whole photograph, resized to a square and mirrored half of the time.

    The part is 40 to 100 % of the photograph's area and not much wider or higher than square.
    """
    height, width = photo.image.shape[:2]
    share, ratio = rng.uniform(*SHARES), np.exp(rng.uniform(*np.log(RATIOS)))
    h = min(height, max(1, round(float(np.sqrt(height * width * share / ratio)))))
    w = min(width, max(1, round(float(np.sqrt(height * width * share * ratio)))))
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    part = cv2.resize(photo.image[y : y + h, x : x + w], (side, side), interpolation=cv2.INTER_CUBIC)
    view = replace(photo, image=part, box=(x, y, x + w, y + h))
    return flip(view) if rng.random() < 0.5 else view
