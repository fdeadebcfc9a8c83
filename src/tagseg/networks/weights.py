"""What weights a network begins with: words, files, and runs of before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from tagseg.files import RUN_MARKER, file_digest

CLASSIFIER, SEGMENTER = Path("train") / "classifier.safetensors", Path("segment") / "model.safetensors"  # in a run


def earlier_run(weights: str) -> Path | None:
    """Returns the folder of the run that weights are those of; None where they are a word or a file."""
    path = Path(weights)
    return path if (path / RUN_MARKER).is_file() else None


def weights_digest(weights: str) -> str:
    """Returns the words "pretrained" and "random" as they are, and a digest of the content of a file, or of the
    networks of a run."""
    run = earlier_run(weights)
    if run is not None:
        return " ".join(file_digest(run / part) for part in (CLASSIFIER, SEGMENTER) if (run / part).is_file())
    return weights if weights in ("pretrained", "random") else file_digest(Path(weights))


@torch.no_grad()
def take_over(
    network: nn.Module, state: dict[str, torch.Tensor], before: Sequence[str], now: Sequence[str]
) -> list[str]:
    """Gives a network what an earlier one of the same kind has learnt, which may have known other classes.

    Parameters of the same name and shape are taken whole; of those that have a row for each class, the rows of classes
    that both know by name.

    Args:
        network: the network.
        state: the earlier one's weights.
        before, now: what the rows of the earlier one, and of this one, stand for.

    Returns:
        the names that both know.
    """
    both = [name for name in now if name in before]
    here, there = ([names.index(name) for name in both] for names in (list(now), list(before)))
    for key, parameter in network.named_parameters():
        old = state.get(key)
        if old is None:
            continue
        rows = parameter.ndim > 0 and old.ndim > 0 and len(parameter) == len(now) and len(old) == len(before)
        if rows and parameter.shape[1:] == old.shape[1:] and list(before) != list(now):
            parameter[here] = old[there].to(parameter)
        elif parameter.shape == old.shape:
            parameter.copy_(old)
    return both
