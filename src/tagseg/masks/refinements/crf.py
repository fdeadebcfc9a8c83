"""The dense CRF in a chain (see `tagseg.masks.crf`)."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator

from tagseg.errors import nearest
from tagseg.masks.crf_parameters import CRFS
from tagseg.masks.refinements import Refinement


def refine(photo: np.ndarray, scores: np.ndarray, settings: str = "deeplab") -> np.ndarray:
    """Makes scores follow edges; `settings` names published parameters (`tagseg.masks.crf_parameters.CRFS`)."""
    from tagseg.masks.crf import refine_crf
    from tagseg.networks.precision import default_device

    return refine_crf(photo, scores, crf=settings, device=default_device(), threads=1)


def from_labels(photo: np.ndarray, labels: np.ndarray, count: int, settings: str = "deeplab") -> np.ndarray:
    """Turns hard labels into scores; they are believed with the probability `gt_prob` of the parameters."""
    from tagseg.masks.crf import crf_from_labels
    from tagseg.networks.precision import default_device

    return crf_from_labels(photo, labels, count, settings, device=default_device(), threads=1)


def _known(name: str) -> str:
    if name not in CRFS:
        raise ValueError(f"there is no such CRF{nearest(name, list(CRFS)) or '.'} Known: {', '.join(CRFS)}")
    return name


REFINEMENT = Refinement(
    name="crf",
    about="a fully connected CRF on a permutohedral lattice, with published parameters by name (`masks.crf`)",
    source="Kraehenbuehl and Koltun, NIPS 2011",
    refine=refine,
    settings=Annotated[str, AfterValidator(_known)],
    default="deeplab",
    from_labels=from_labels,
)
