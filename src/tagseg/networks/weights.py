"""What weights a network begins with, as an input of a run."""

from __future__ import annotations

from pathlib import Path

from tagseg.files import file_digest


def weights_digest(weights: str) -> str:
    """Returns the words "pretrained" and "random" as they are, and a digest of the content of a file."""
    return weights if weights in ("pretrained", "random") else file_digest(Path(weights))
