"""PAMR in a chain (see `tagseg.masks.par`)."""

from __future__ import annotations

import numpy as np

from tagseg.masks.refinements import Refinement


def refine(photo: np.ndarray, scores: np.ndarray, settings: None = None) -> np.ndarray:
    """Lets scores flow between pixels of like colour."""
    from tagseg.masks.par import refine_pamr
    from tagseg.networks.precision import default_device

    del settings
    return refine_pamr(photo, scores, device=default_device(), threads=1)


REFINEMENT = Refinement("pamr", "scores flow between pixels of like colour", "Araslanov and Roth, CVPR 2020", refine)
