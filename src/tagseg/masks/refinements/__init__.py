"""The table of refinements: what sharpens the scores of a photograph, one file each.

A file of this folder declares `REFINEMENT`, whose type says what it needs: a `Refinement` is a function of a photograph
and its scores, a `FeatureRefinement` of features of a frozen network, a `NamedRefinement` of the photograph's name, a
`LearntRefinement` is a network that learns from class maps first, and a `TaughtRefinement` one that learns from the
masks made so far. The chain `masks.refine`, its settings, the help of the command line, the list in README and the
tests over all of them derive from this table. The files import nothing that computes until they are called, so that
names, help and bad input are answered without torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tagseg.errors import nearest
from tagseg.masks.refinements.learnt import LearntRefinement

NONE = "none"  # the chain that refines nothing


@dataclass(frozen=True)
class Refinement:
    """A refinement that needs a photograph and its scores only.

    name: as the chain `masks.refine` has it.
    about: what it does, in half a sentence.
    source: the paper.
    refine: `(photo (H, W, 3) uint8, scores (K + 1, H, W), settings) -> scores` of the same shape, not negative. One
        core does it, where it is not a GPU, so that photographs may go side by side.
    settings: the type of the setting `masks.NAME`, as pydantic takes it; None if it has none.
    default: the value of that setting.
    from_labels: takes hard labels, `(photo, labels (H, W) of 0..n-1 with 255 for unknown, n, settings) -> scores
        (n, H, W)`, where they are not simply scores of 0 and 1.
    """

    name: str
    about: str
    source: str
    refine: Callable[[np.ndarray, np.ndarray, Any], np.ndarray]
    settings: Any = None
    default: Any = None
    from_labels: Callable[[np.ndarray, np.ndarray, int, Any], np.ndarray] | None = None


@dataclass(frozen=True)
class FeatureRefinement:
    """A refinement that needs a photograph's features (see `tagseg.segmentation.encoder`).

    In `fit` it works on class maps, so that it comes first in a chain.

    name, about, source: as for `Refinement`.
    refine: `(features (D, h, w), scores (K + 1, H, W), settings) -> scores` of the same shape; the h x w cells tile the
        photograph, and the scores lie on them (H = h) or on pixels.
    settings: the class of the setting `masks.NAME`.
    default: the value of that setting.
    of_maps: the same for class maps `(K, H, W)` in [0, 1], which have no background; None: `refine` takes them too.
    most: cells that a photograph may have; None: any number.
    """

    name: str
    about: str
    source: str
    refine: Callable[[np.ndarray, np.ndarray, Any], np.ndarray]
    settings: Any
    default: Any
    of_maps: Callable[[np.ndarray, np.ndarray, Any], np.ndarray] | None = None
    most: int | None = None


@dataclass(frozen=True)
class NamedRefinement:
    """A refinement that knows something of single photographs, by their names.

    name, about, source: as for `Refinement`.
    refine: `(name of the photograph, scores (K + 1, H, W), settings) -> scores` of the same shape, not negative.
    settings: the class of the setting `masks.NAME`.
    default: the value of that setting.
    """

    name: str
    about: str
    source: str
    refine: Callable[[str, np.ndarray, Any], np.ndarray]
    settings: Any
    default: Any


@dataclass(frozen=True)
class TaughtRefinement:
    """A refinement whose network learns from the masks that the steps before it make of all photographs.

    What it finds in each of them, of the tags that were given, are the scores for the steps after it.

    name, about, source: as for `Refinement`.
    settings: the class of the setting `masks.NAME`.
    default: the value of that setting.
    """

    name: str
    about: str
    source: str
    settings: Any
    default: Any


AnyRefinement = Refinement | FeatureRefinement | NamedRefinement | LearntRefinement | TaughtRefinement
_ORDER = (LearntRefinement, FeatureRefinement, TaughtRefinement, NamedRefinement, Refinement)


@cache
def refinements() -> dict[str, AnyRefinement]:
    """Returns all refinements by name: those that come first in a chain, then the others."""
    files = [importlib.import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)]
    found = [file.REFINEMENT for file in files if hasattr(file, "REFINEMENT")]
    return {r.name: r for r in sorted(found, key=lambda r: (_ORDER.index(type(r)), r.name))}


def learnt_names() -> list[str]:
    """Returns the names of the refinements that learn from class maps."""
    return [name for name, found in refinements().items() if isinstance(found, LearntRefinement)]


def sharpening_names() -> list[str]:
    """Returns the names of the refinements that learn nothing, and so work on any scores of any photograph."""
    return [
        n for n, found in refinements().items() if isinstance(found, Refinement | FeatureRefinement | NamedRefinement)
    ]


def steps_of(chain: str) -> tuple[str, ...]:
    """Returns the names of a chain such as `"irn+crf"`, none for `"none"`."""
    return () if chain == NONE else tuple(chain.split("+"))


def check_chain(chain: str) -> str:
    """Checks a chain, and returns it as it is.

    Raises:
        ValueError: it names what does not exist, a refinement that works on class maps anywhere but first, or one that
            learns from masks twice.
    """
    known, names = refinements(), steps_of(chain)
    for number, name in enumerate(names):
        if name not in known:
            hint = nearest(name, list(known)) or "."
            raise ValueError(f"there is no refinement '{name}'{hint} Known: {NONE}, {', '.join(known)}")
        if number > 0 and isinstance(known[name], LearntRefinement | FeatureRefinement):
            raise ValueError(f"'{name}' must come first in a chain, for it works on class maps")
        if isinstance(known[name], TaughtRefinement) and name in names[:number]:
            raise ValueError(f"'{name}' learns once in a chain")
    return chain
