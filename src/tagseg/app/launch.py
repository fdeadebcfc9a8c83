"""`explore`: from what a command names to a served page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tagseg.data.photographs import find_photographs
from tagseg.errors import BadInput
from tagseg.progress import Reporter


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


def review(run: str | os.PathLike[str], *, port: int | None = None, block: bool = True, quiet: bool = False) -> str:
    """Serves a page on this machine only, on which the pseudo-masks of a run are looked through and mended.

    The most doubtful ones come first (see `tagseg.app.doubt`). Whatever is drawn is written into the run at once; the
    next `tagseg fit` on it keeps and learns it. While the page is served, nothing else works on the run.

    Args:
        run: the folder of a run that has come to its segmentation network.
        port: None for the first free one from 7860.
        block: until the process is stopped; else the server goes on beside it.
        quiet: show no progress.

    Returns:
        the address.

    Raises:
        BadInput: there is no such run, another process is at work on it, the port is taken, or the packages of
            `tagseg[app]` are missing.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise BadInput("the page needs packages that are not installed; pip install 'tagseg[app]'.") from error
    from tagseg.app.review import Review, serve

    return serve(Review(Path(run), Reporter(quiet)), port=port, block=block)
