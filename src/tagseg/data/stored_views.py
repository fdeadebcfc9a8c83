"""Which views of a photograph have stored features: the whole, its mirror image, and a few parts that stay the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

MIRRORED, PART = "|mirrored", "|part"  # end the names under which features of other views are stored
SMALLEST, LARGEST = 0.5, 0.9  # of a part, as a share of either side of the photograph


@dataclass(frozen=True)
class StoredView:
    """One view of a photograph.

    name: under which its features are stored.
    mirrored: whether it is mirrored left to right.
    part: y, x of the corner and the size of either side, as shares of the photograph's height and width.
    """

    name: str
    mirrored: bool = False
    part: tuple[float, float, float] = (0.0, 0.0, 1.0)

    def of(self, array: np.ndarray) -> np.ndarray:
        """Returns the view of a photograph or mask `(H, W, ...)`, in memory of its own order."""
        height, width = array.shape[:2]
        y, x, share = self.part
        high, wide = max(1, round(share * height)), max(1, round(share * width))
        top, left = min(round(y * height), height - high), min(round(x * width), width - wide)
        cut = array[top : top + high, left : left + wide]
        return np.ascontiguousarray(cut[:, ::-1] if self.mirrored else cut)


def views_to_store(name: str, *, mirrored: bool, parts: int) -> list[StoredView]:
    """Returns the views of the photograph `name` that are to be stored, the whole first.

    Args:
        name: of the photograph, which alone decides where its parts lie.
        mirrored: whether the mirror image is one of them.
        parts: how many parts are.
    """
    whole = [StoredView(name)]
    return [*whole, *([_mirrored(name)] if mirrored else []), *(_part(name, number) for number in range(parts))]


class Names(Protocol):
    """What knows under which names something is stored."""

    def __contains__(self, name: str) -> bool: ...


def stored_views(name: str, store: Names) -> list[StoredView]:
    """Returns the views of the photograph `name` that a store has, the whole first."""
    found = [StoredView(name), *(view for view in [_mirrored(name)] if view.name in store)]
    number = 0
    while (view := _part(name, number)).name in store:
        found.append(view)
        number += 1
    return found


def _mirrored(name: str) -> StoredView:
    return StoredView(name + MIRRORED, mirrored=True)


def _part(name: str, number: int) -> StoredView:
    rng = np.random.default_rng([number, *name.encode()])
    share = rng.uniform(SMALLEST, LARGEST)
    y, x = rng.uniform(0, 1 - share, size=2)
    return StoredView(f"{name}{PART}{number}", part=(float(y), float(x), float(share)))
