"""Segments of somebody else's, such as SAM's, in a chain (see `tagseg.masks.segments`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tagseg.errors import BadInput
from tagseg.masks.refinements import NamedRefinement
from tagseg.settings import Settings


class SegmentsSettings(Settings):
    """Settings of segments: the folder in which they lie, NAME.png or NAME.json for a photograph NAME."""

    folder: str | None = None


def refine(name: str, scores: np.ndarray, settings: SegmentsSettings = SegmentsSettings()) -> np.ndarray:
    """Gives every segment of a photograph the class that it overlaps most."""
    from tagseg.masks.segments import read_segments, refine_by_segments

    if settings.folder is None:
        raise BadInput(
            "segments: there is no folder of them; make one with tagseg segments, and set masks.segments.folder=DIR."
        )
    return refine_by_segments(scores, read_segments(Path(settings.folder), name, scores.shape[1:]))


REFINEMENT = NamedRefinement(
    name="segments",
    about="segments of SAM or of any other tool take the class that they overlap most (`masks.segments.folder`)",
    source="Chen et al., 2023",
    refine=refine,
    settings=SegmentsSettings,
    default=SegmentsSettings(),
)
