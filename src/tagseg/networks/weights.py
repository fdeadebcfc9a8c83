"""What weights a network begins with, as an input of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path


def weights_digest(weights: str) -> str:
    """Returns the words "pretrained" and "random" as they are, and a digest of the content of a file."""
    if weights in ("pretrained", "random"):
        return weights
    return hashlib.blake2b(Path(weights).read_bytes(), digest_size=16).hexdigest()
