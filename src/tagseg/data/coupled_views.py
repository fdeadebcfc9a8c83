"""Two photographs at a time, which are mixed into each other once their labels are known: the batches of BECO."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tagseg.data.loading import TrainingViews


class CoupledViews(TrainingViews):
    """Training views in pairs, of every photograph one in an epoch.

    They hold what `TrainingViews` holds of both, one behind the other, and `seed (2,)`, from which everything comes
    that is random about either later on. Who stands beside whom is drawn anew in every epoch; arguments are those of
    `TrainingViews`.
    """

    def __len__(self) -> int:
        return -(-len(self.samples) // 2)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, number = key
        order = np.random.default_rng((self.spec.seed, epoch)).permutation(len(self.samples))
        members = [int(order[place % len(order)]) for place in (2 * number, 2 * number + 1)]
        items = [self.item(index, self.view(epoch, index)) for index in members]
        seeds = [np.random.default_rng((self.spec.seed, epoch, index, 2)).integers(1 << 62) for index in members]
        both = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        return {**both, "seed": torch.tensor([int(seed) for seed in seeds])}
