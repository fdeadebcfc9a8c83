"""The stages of a run. Each file here is one, and says `STAGE = Stage(...)`; their order stands here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagseg.pipeline.run import Stage

ORDER = (
    "saliency",
    "features",
    "frozen",
    "train",
    "integral",
    "mine",
    "premise",
    "affinity",
    "masks",
    "relabel",
    "segment",
    "report",
)


def stages(until: str = ORDER[-1]) -> tuple[Stage[Any], ...]:
    """Returns the stages in their order, up to the one named `until`."""
    names = ORDER[: ORDER.index(until) + 1]
    return tuple(importlib.import_module(f"{__name__}.{name}").STAGE for name in names)
