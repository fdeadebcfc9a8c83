"""Where a classifier to be explained comes from, checked before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path

from tagseg.errors import BadInput

LIBRARIES = ("timm", "torchvision")


def check_source(source: str | os.PathLike[str], weights: str = "pretrained", side: int | None = None) -> None:
    """Refuses what cannot be a classifier; the arguments are those of `load_classifier`.

    Raises:
        BadInput: it names neither a library's network nor the folder of a run with a trained classifier, its weights
            are no file, or photographs would be too small.
    """
    if side is not None and side < 32:
        raise BadInput(f"side {side}: give at least 32 pixels.")
    if str(source).partition(":")[0] in LIBRARIES and ":" in str(source):
        if weights not in ("pretrained", "random") and not Path(weights).is_file():
            raise BadInput(
                f"{weights}: there is no such weights file; give a .safetensors or .pth file, or 'pretrained'."
            )
        return
    folder = Path(source)
    if not folder.is_dir():
        raise BadInput(f"model '{source}': give timm:NAME, torchvision:NAME, or the folder of a run.")
    if (folder / "train" / "classifier.json").is_file():
        return
    if (folder / "train" / "attention.safetensors").exists():
        raise BadInput(
            f"{folder}: this run was made by an older version of tagseg; its classifier must be trained again, with "
            "'tagseg fit' into another folder."
        )
    raise BadInput(f"{folder}: this is no run with a trained classifier; make one with 'tagseg fit'.")
