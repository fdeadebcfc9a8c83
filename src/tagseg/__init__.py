"""Tags in, masks out: weakly supervised segmentation from image tags.

run = tagseg.fit("photos", "run")                  # images/ and labels.csv -> a segmentation network
mask = tagseg.load("run").predict("new.jpg")       # (H, W) uint8, 0 background, class c at c + 1
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tagseg.errors import BadInput
from tagseg.version import __version__

if TYPE_CHECKING:
    from tagseg.app.launch import explore, review
    from tagseg.commands.check import check
    from tagseg.commands.compare import compare
    from tagseg.commands.demo import demo
    from tagseg.commands.doctor import doctor
    from tagseg.commands.evaluate import evaluate
    from tagseg.commands.export import export_masks
    from tagseg.commands.export_model import export_onnx
    from tagseg.commands.plan import plan
    from tagseg.commands.predict import predict
    from tagseg.commands.refine import refine
    from tagseg.commands.report import report_on
    from tagseg.commands.segments import cut_segments
    from tagseg.data.objects import read_samples
    from tagseg.explaining.decompose import decompose
    from tagseg.explaining.explain import explain
    from tagseg.explaining.locate import locate
    from tagseg.methods.table import use_method
    from tagseg.pipeline.fit import fit
    from tagseg.segmentation.model import load
    from tagseg.studies.study import study

__all__ = [
    "BadInput",
    "__version__",
    "check",
    "compare",
    "cut_segments",
    "decompose",
    "demo",
    "doctor",
    "evaluate",
    "explain",
    "explore",
    "export_masks",
    "export_onnx",
    "fit",
    "load",
    "locate",
    "plan",
    "predict",
    "read_samples",
    "refine",
    "report_on",
    "review",
    "study",
    "use_method",
]

_HOMES = {
    "check": "tagseg.commands.check",
    "compare": "tagseg.commands.compare",
    "cut_segments": "tagseg.commands.segments",
    "decompose": "tagseg.explaining.decompose",
    "demo": "tagseg.commands.demo",
    "doctor": "tagseg.commands.doctor",
    "evaluate": "tagseg.commands.evaluate",
    "explain": "tagseg.explaining.explain",
    "explore": "tagseg.app.launch",
    "export_masks": "tagseg.commands.export",
    "export_onnx": "tagseg.commands.export_model",
    "fit": "tagseg.pipeline.fit",
    "load": "tagseg.segmentation.model",
    "locate": "tagseg.explaining.locate",
    "plan": "tagseg.commands.plan",
    "predict": "tagseg.commands.predict",
    "read_samples": "tagseg.data.objects",
    "refine": "tagseg.commands.refine",
    "report_on": "tagseg.commands.report",
    "review": "tagseg.app.launch",
    "study": "tagseg.studies.study",
    "use_method": "tagseg.methods.table",
}


def __getattr__(name: str) -> Any:
    """Imports what is first asked for; torch comes only with what needs it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tagseg' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
