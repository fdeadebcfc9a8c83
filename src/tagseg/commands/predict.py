"""`predict`: masks for new photographs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tagseg.cores import prefetch
from tagseg.data.images import read_image, voc_palette, write_mask
from tagseg.data.photographs import OVERLAY, find_photographs
from tagseg.errors import BadInput, explain_full_disk
from tagseg.masks.crf_parameters import find_crf
from tagseg.networks.settings import EncoderSettings
from tagseg.pipeline.settings import sharpening
from tagseg.progress import Reporter
from tagseg.report.pictures import overlay_mask
from tagseg.report.sheets import write_picture
from tagseg.segmentation.saved import find_model


def predict(
    run: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    crf: str | None = None,
    refine: str | None = None,
    encoder: EncoderSettings | None = None,
    overlay: bool = False,
    skip_bad: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Segments photographs and writes one palette PNG each (0 background, class c at c + 1).

    Args:
        run: folder of a finished run or model.
        images: files, or folders that are searched through; names below a folder are kept.
        out: folder for the masks; `NAME.png`, and with `overlay` also `NAME.overlay.jpg`.
        scales, flip: see `SegmentationModel.predict`.
        crf: sharpen with the dense CRF of these parameters, a name of `tagseg.masks.crf_parameters.CRFS`.
        refine: sharpen with refinements that learn nothing, several with + between them, e.g. `"proxy+par"`; a CRF
            among them has the parameters of `crf`.
        encoder: the frozen transformer, for `proxy`; None: the default one.
        skip_bad: leave out photographs that cannot be read.

    Returns:
        the masks written.
    """
    if not scales or min(scales) <= 0:
        raise BadInput(f"scales {scales}: give positive numbers, for example 0.75,1,1.25.")
    parameters = None if crf is None else find_crf(crf)
    chain = None if refine is None else sharpening(refine, crf or "deeplab")
    found = find_photographs(images, out, (".png", OVERLAY) if overlay else (".png",))
    folder = find_model(run)
    from tagseg.masks.crf import crf_mask  # torch is imported only now
    from tagseg.pipeline.masking import refine_scores
    from tagseg.segmentation.model import load

    reporter, model = Reporter(quiet), load(folder)
    written = []
    out = Path(out)

    def decode(item: tuple[str, Path]) -> tuple[str, np.ndarray | BadInput]:
        try:
            return item[0], read_image(item[1])
        except BadInput as error:
            return item[0], error

    with reporter.bar("predict", len(found), "photographs") as advance, explain_full_disk(out):
        for name, photo in prefetch(decode, found.items()):
            if isinstance(photo, BadInput):
                if not skip_bad:
                    raise photo
                reporter.say(f"skipped: {photo}")
                continue
            if chain is not None:
                probabilities = model.probabilities(photo, scales=scales, flip=flip)
                mask = refine_scores(photo, probabilities, chain, name, encoder).argmax(axis=0).astype(np.uint8)
            elif parameters is None:
                mask = model.predict(photo, scales=scales, flip=flip)
            else:
                probabilities = model.probabilities(photo, scales=scales, flip=flip)
                mask = crf_mask(photo, probabilities, parameters, device=model.device)
            path = out / f"{name}.png"
            write_mask(path, mask)
            if overlay:
                write_picture(out / f"{name}{OVERLAY}", overlay_mask(photo, mask, voc_palette()))
            written.append(path)
            advance(len(written), "")
    return written
