"""PAR in a chain (see `tagseg.masks.par`)."""

from __future__ import annotations

import numpy as np

from tagseg.masks.refinements import Refinement


def refine(photo: np.ndarray, scores: np.ndarray, settings: None = None) -> np.ndarray:
    """Lets scores flow between pixels of like colour and place."""
    from tagseg.masks.par import refine_par
    from tagseg.networks.precision import default_device

    del settings
    return refine_par(photo, scores, device=default_device(), threads=1)


REFINEMENT = Refinement("par", "scores flow between pixels of like colour and place", "Ru et al., CVPR 2022", refine)
