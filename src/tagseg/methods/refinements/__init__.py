"""The networks of refinements that learn (see `tagseg.masks.refinements`), one file a paper.

They are taught by the confident parts of the class maps which neighbours belong together, so that the maps can walk
along them. Their settings, and their place in the table, are declared in the file of the same name in
`masks/refinements`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tagseg.masks.refinements import LearntRefinement

if TYPE_CHECKING:
    from tagseg.methods.refinements.base import AffinityNetwork


def load_network(refinement: LearntRefinement) -> type[AffinityNetwork]:
    """Returns the class of a refinement's network.

    It stands in the file called as the refinement, and is the class which has its settings.
    """
    module = importlib.import_module(f"{__name__}.{refinement.name}")
    classes = (value for value in vars(module).values() if isinstance(value, type))
    return next(c for c in classes if vars(c).get("Settings") is refinement.settings)
