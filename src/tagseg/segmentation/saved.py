"""Where a trained segmentation network lies."""

from __future__ import annotations

import os
from pathlib import Path

from tagseg.errors import BadInput

DESCRIPTION, WEIGHTS = "model.json", "model.safetensors"


def find_model(path: str | os.PathLike[str]) -> Path:
    """Returns the folder with `model.json`: the one given, or that of the network in the folder of a run.

    Raises:
        BadInput: there is none.
    """
    for folder in (Path(path), Path(path) / "segment"):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise BadInput(f"{path}: there is no trained model here (no {DESCRIPTION}); give the folder of a finished run.")
