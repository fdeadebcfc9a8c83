"""A graph network in a chain (see `tagseg.masks.graph`)."""

from __future__ import annotations

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat

from tagseg.masks.refinements import FeatureRefinement
from tagseg.settings import Count, Settings

MOST = 4096  # cells, of whose pairs a photograph takes 64 MB a table


class GraphSettings(Settings):
    """Settings of the graph network; those of its training are the published ones."""

    sure: float = Field(default=0.3, gt=0, le=1)  # share of the cells that a class wins, whose label it learns
    alpha: PositiveFloat = 4.0  # background scores (1 - strongest map) ** alpha; the larger, the less is background
    beta: PositiveFloat = 1.0  # what is less alike than this times the mean similarity is not joined
    gamma: PositiveFloat = 4.0  # the larger, the less is joined what is less alike
    hidden: Count = 16  # channels of the first layer
    dropout: float = Field(default=0.3, ge=0, lt=1)  # share of them that is left out while it learns
    steps: Count = 250  # of Adam, in every photograph
    learning_rate: PositiveFloat = 0.01  # of Adam
    weight_decay: NonNegativeFloat = 0.0005
    entropy: NonNegativeFloat = 0.476  # weight of the entropy where no label is sure; published is 10 of a mean over 21
    smooth: NonNegativeFloat = 0.01  # weight of neighbours' differences


def refine(features: np.ndarray, scores: np.ndarray, settings: GraphSettings = GraphSettings()) -> np.ndarray:
    """Lets a graph network learn where scores are sure, and returns its probabilities."""
    from tagseg.grid import PIXELS
    from tagseg.masks.graph import complete
    from tagseg.masks.rescaling import on_cells

    found = complete(features, on_cells(scores, features.shape[1:]), settings)
    return PIXELS.resize(found, scores.shape[1:])


def refine_maps(features: np.ndarray, maps: np.ndarray, settings: GraphSettings = GraphSettings()) -> np.ndarray:
    """Returns the probabilities of the classes; background is scored by what no map claims."""
    strongest = np.clip(maps.max(axis=0, keepdims=True), 0, 1)
    return refine(features, np.concatenate([(1 - strongest) ** settings.alpha, maps]), settings)[1:]


REFINEMENT = FeatureRefinement(
    name="gcn",
    about="a graph network learns the surest cells of every photograph and completes the others",
    source="Pan et al., ICME 2021",
    refine=refine,
    settings=GraphSettings,
    default=GraphSettings(),
    of_maps=refine_maps,
    most=MOST,
)
