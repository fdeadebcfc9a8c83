"""Proxy affinity in a chain (see `tagseg.masks.proxy`)."""

from __future__ import annotations

import numpy as np
from pydantic import PositiveFloat

from tagseg.masks.refinements import FeatureRefinement
from tagseg.settings import Settings


class ProxySettings(Settings):
    """Settings of proxy affinity; ProxyCLIP has 1.2 and 3 for its own maps."""

    beta: PositiveFloat = 1.0  # what is less alike than this times the mean similarity counts nothing
    gamma: PositiveFloat = 4.0  # the larger, the less counts what is less alike


def refine(features: np.ndarray, scores: np.ndarray, settings: ProxySettings = ProxySettings()) -> np.ndarray:
    """Spreads every score between the cells that look alike; each keeps its maximum, so that a constant stays one."""
    from tagseg.grid import PIXELS
    from tagseg.masks.proxy import spread_scores
    from tagseg.masks.rescaling import on_cells

    cells = features.shape[1:]
    found = spread_scores(features, on_cells(scores, cells), settings.beta, settings.gamma)
    return PIXELS.resize(found, scores.shape[1:])


REFINEMENT = FeatureRefinement(
    name="proxy",
    about="scores are spread between parts that look alike to a frozen transformer",
    source="Lan et al., ECCV 2024",
    refine=refine,
    settings=ProxySettings,
    default=ProxySettings(),
)
