"""Tags in, masks out: weakly supervised segmentation from image tags.

run = tagseg.fit("photos", "run")                  # images/ and labels.csv -> a segmentation network
mask = tagseg.load("run").predict("new.jpg")       # (H, W) uint8, 0 background, class c at c + 1
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tagseg.errors import BadInput

if TYPE_CHECKING:
    from tagseg.app.launch import explore
    from tagseg.commands.check import check
    from tagseg.explaining.decompose import decompose
    from tagseg.commands.demo import demo
    from tagseg.explaining.explain import explain
    from tagseg.pipeline.fit import fit
    from tagseg.explaining.locate import locate
    from tagseg.commands.predict import evaluate, predict
    from tagseg.commands.refine import refine
    from tagseg.studies.study import study
    from tagseg.segmentation.model import load

__version__ = "0.1.0"
__all__ = [
    "BadInput",
    "__version__",
    "check",
    "decompose",
    "demo",
    "evaluate",
    "explain",
    "explore",
    "fit",
    "load",
    "locate",
    "predict",
    "refine",
    "study",
]

_HOMES = {
    "check": "tagseg.commands.check",
    "decompose": "tagseg.explaining.decompose",
    "demo": "tagseg.commands.demo",
    "evaluate": "tagseg.commands.predict",
    "explain": "tagseg.explaining.explain",
    "explore": "tagseg.app.launch",
    "fit": "tagseg.pipeline.fit",
    "load": "tagseg.segmentation.model",
    "locate": "tagseg.explaining.locate",
    "predict": "tagseg.commands.predict",
    "refine": "tagseg.commands.refine",
    "study": "tagseg.studies.study",
}


def __getattr__(name: str) -> Any:
    """Torch is imported when something that needs it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tagseg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
