"""The views of DuPL: a window, and the same once more, mirrored and in strongly altered colours."""

from __future__ import annotations

from typing import Any

import numpy as np

from tagseg.data.images import read_image
from tagseg.data.loading import TrainingViews, normalise
from tagseg.data.photometry import alter, distort
from tagseg.data.views import flip, whole


class PerturbedViews(TrainingViews):
    """Training views that are jittered and blurred, and beside them `altered (3, S, S)`, the same view mirrored, in
    colours that were changed five times.
    """

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        rng = np.random.default_rng((self.spec.seed, epoch, index))
        view = distort(self.cut(whole(read_image(self.samples[index].image)), rng), rng, blur=1.0)
        item = self.item(index, view)
        item["altered"] = normalise(flip(alter(view, rng)).image, self.statistics)
        return item
