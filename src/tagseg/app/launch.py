"""`explore`: from what a command names to a served page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tagseg.data.photographs import find_photographs
from tagseg.errors import BadInput


def explore(
    models: Sequence[str | os.PathLike[str]],
    weights: Sequence[str] = ("pretrained",),
    *,
    images: str | os.PathLike[str] | None = None,
    patches: str | os.PathLike[str] | None = None,
    side: int | None = None,
    port: int | None = None,
    block: bool = True,
) -> str:
    """Serves the web explorer on this machine only.

    Args:
        models: see `load_classifier`.
        weights: one for all models, or one for each.
        images: folder of pictures to choose from.
        patches: folder of photographs whose parts that excite a channel most are shown.
        port: None for the first free one from 7860.
        block: until the process is stopped.

    Returns:
        the address.

    Raises:
        BadInput: in one sentence, what does not fit.
    """
    from tagseg.app.page import serve

    if not models:
        raise BadInput("name at least one model, for example timm:mobilenetv2_100.")
    if len(weights) not in (1, len(models)):
        raise BadInput(f"{len(weights)} weights for {len(models)} models; give one for all, or one for each.")
    if images is not None and not Path(images).is_dir():
        raise BadInput(f"{images}: this is no folder of pictures.")
    sources = [str(m) for m in models]
    each = list(weights) * (len(sources) if len(weights) == 1 else 1)
    named = {_name(s, w, sources): (s, w) for s, w in zip(sources, each, strict=True)}
    if len(named) < len(sources):
        raise BadInput("a model is given twice with the same weights; name each once.")
    photographs = list(find_photographs([patches]).values()) if patches is not None else []
    folder = None if images is None else Path(images)
    return serve(named, folder=folder, patches=photographs, side=side, port=port, block=block)


def _name(source: str, weights: str, sources: Sequence[str]) -> str:
    """What the page calls a model: with its weights where the same network is there twice."""
    return f"{source} ({Path(weights).name})" if sources.count(source) > 1 else source
