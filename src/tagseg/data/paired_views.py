"""A view of a photograph beside a view of another one that shares a class: the pairs of KTSE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tagseg.data.dataset import Sample
from tagseg.data.loading import PixelStatistics, TrainingViews
from tagseg.data.views import ViewSpec


class PairedViews(TrainingViews):
    """Training views, each beside a view of another photograph that shares a class.

    Beside what `TrainingViews` gives they hold from the epoch `pairs_from` on `partner (3, S, S)` and
    `partner_tags (C,)`, a view like any other of a photograph that shares a class.

    Args:
        samples, num_classes, statistics, spec: see `TrainingViews`.
        pairs_from: the first epoch, counted from 0, that has partners; None: no epoch has.
        itself: whether a photograph may be its own partner (KTSE's published code), or only if it has no other.
        control: whether it always is, in another view.
    """

    def __init__(
        self,
        samples: tuple[Sample, ...],
        num_classes: int,
        statistics: PixelStatistics,
        spec: ViewSpec,
        *,
        pairs_from: int | None,
        itself: bool = False,
        control: bool = False,
    ) -> None:
        super().__init__(samples, num_classes, statistics, spec)
        self.pairs_from, self.itself, self.control = pairs_from, itself, control
        self.photographs = photographs_of([s.tags for s in samples], num_classes)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        view = self.view(epoch, index)
        item = self.item(index, view)
        if self.pairs_from is not None and epoch >= self.pairs_from:
            rng = np.random.default_rng((self.spec.seed, epoch, index, 1))
            tags = self.samples[index].tags
            other = index if self.control else partner(index, tags, self.photographs, rng, itself=self.itself)
            shown = self.item(other, self.drawn(other, rng))
            item |= {"partner": shown["image"], "partner_tags": shown["tags"]}
        return item


def photographs_of(tags: Sequence[Sequence[int]], num_classes: int) -> list[np.ndarray]:
    """Returns for every class the photographs that have it.

    The table is made once, so that a partner costs no search.
    """
    found: list[list[int]] = [[] for _ in range(num_classes)]
    for index, classes in enumerate(tags):
        for number in classes:
            found[number].append(index)
    return [np.array(members, dtype=np.int64) for members in found]


def partner(
    index: int,
    tags: Sequence[int],
    photographs: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    itself: bool = False,
) -> int:
    """Returns a random photograph of a random class of photograph `index`, which has `tags`.

    Without tags, or if no other has the class, it is that photograph itself.
    """
    if not tags:
        return index
    members = photographs[tags[int(rng.integers(len(tags)))]]
    if itself or len(members) == 1:
        return int(members[rng.integers(len(members))])
    found = int(members[rng.integers(len(members) - 1)])  # its own place stands for the last one
    return int(members[-1]) if found == index else found
