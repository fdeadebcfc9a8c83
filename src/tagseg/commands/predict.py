"""`predict`: masks for new photographs and the frames of videos."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tagseg.cores import prefetch
from tagseg.data.images import read_image, voc_palette, write_mask
from tagseg.data.photographs import OVERLAY, find_photographs
from tagseg.data.readers.folder import CLASSES, write_class_names
from tagseg.data.video import count_frames, find_videos, frames, frames_a_second, write_video
from tagseg.errors import BadInput, brief, explain_full_disk
from tagseg.masks.crf_parameters import find_crf
from tagseg.networks.settings import EncoderSettings
from tagseg.pipeline.settings import sharpening
from tagseg.progress import Reporter
from tagseg.report.pictures import labelled_overlay
from tagseg.report.sheets import write_picture
from tagseg.segmentation.saved import find_model
from tagseg.segmentation.settings import NO_CRF

OVERLAY_VIDEO = ".overlay.mp4"


def predict(
    run: str | os.PathLike[str],
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    names: str | os.PathLike[str] | None = None,
    side: int | str | None = None,
    scales: tuple[float, ...] | None = None,
    flip: bool | None = None,
    fuse: str | None = None,
    crf: str | None = None,
    refine: str | None = None,
    encoder: EncoderSettings | None = None,
    overlay: bool = False,
    every: int = 1,
    skip_bad: bool = False,
    quiet: bool = False,
) -> list[Path]:
    """Segments photographs and writes one palette PNG each (0 background, class c at c + 1), and `classes.txt`.

    Args:
        run: folder of a finished run or model.
        images: photographs and videos, or folders that are searched through; names below a folder are kept.
        out: folder for the masks; `NAME.png`, and with `overlay` also `NAME.overlay.jpg`. Those of a video are
            `NAME/NUMBER.png`, the number of the frame counting from 0, and `NAME.overlay.mp4`.
        names: a file of the names of photographs, one a line, as VOC's `test.txt`; the others, and videos, are left
            out.
        side, scales, flip, fuse, crf: see `SegmentationModel.predict`; what is None is as the run's test protocol says.
        refine: sharpen with refinements that learn nothing, several with + between them, e.g. `"proxy+par"`, instead of
            the protocol's CRF; a CRF among them has the parameters of `crf`.
        encoder: the frozen transformer, for `proxy` and `gcn`; None: the default one.
        every: of a video, every so many frames.
        skip_bad: leave out photographs that cannot be read.

    Returns:
        the masks written.

    Raises:
        BadInput: there is nothing to look at, or something cannot be read or written.
    """
    if every < 1:
        raise BadInput(f"every {every}: give 1 for every frame of a video, 2 for every second one, and so on.")
    if scales is not None and (not scales or min(scales) <= 0):
        raise BadInput(f"scales {scales}: give positive numbers, for example 0.75,1,1.25.")
    if crf is not None and crf != NO_CRF:
        find_crf(crf)
    chain = None if refine is None else sharpening(refine, crf if crf not in (None, NO_CRF) else "deeplab")
    images = [images] if isinstance(images, str | os.PathLike) else list(images)
    videos = {} if names is not None else find_videos(images, out)
    photographs = [image for image in images if Path(image) not in videos.values()]
    found = find_photographs(photographs, out, (".png", OVERLAY) if overlay else (".png",), may_be_none=bool(videos))
    if names is not None:
        found = _listed(found, Path(names))
    reporter = Reporter(quiet)
    lengths = _lengths(videos, found, Path(out), skip_bad, reporter)  # told before anything is loaded
    expected = sum(-(-length // every) for length in lengths.values())
    folder = find_model(run)
    from tagseg.pipeline.masking import refine_scores  # torch is imported only now
    from tagseg.segmentation.model import load

    model = load(folder)
    how = {"side": side, "scales": scales, "flip": flip, "fuse": fuse}
    model.protocol = model.how(**how, crf=None if chain is not None else crf)
    written: list[Path] = []
    out = Path(out)

    def decode(item: tuple[str, Path]) -> tuple[str, np.ndarray | BadInput]:
        try:
            return item[0], read_image(item[1])
        except BadInput as error:
            return item[0], error

    def segment(photo: np.ndarray, name: str) -> np.ndarray:
        if chain is None:
            return model.predict(photo)
        probabilities = model.probabilities(photo)
        return refine_scores(photo, probabilities, chain, name, encoder).argmax(axis=0).astype(np.uint8)

    def write(mask: np.ndarray, name: str) -> None:
        write_mask(path := out / f"{name}.png", mask)
        written.append(path)
        advance(len(written), "")

    what = "frames" if not found else "photographs" if not videos else "photographs and frames"
    with reporter.bar("predict", len(found) + expected, what) as advance, explain_full_disk(out):
        write_class_names(out, model.classes)
        for name, photo in prefetch(decode, found.items()):
            if isinstance(photo, BadInput):
                if not skip_bad:
                    raise photo
                reporter.say(f"skipped: {photo}")
                continue
            mask = segment(photo, name)
            if overlay:
                write_picture(out / f"{name}{OVERLAY}", labelled_overlay(photo, mask, voc_palette(), model.classes))
            write(mask, name)
        everything = range(1, len(model.classes) + 1)  # the legend of a video does not change its size
        for name, length in lengths.items():
            video, seen = videos[name], 0
            with ExitStack() as stack:
                target = out / f"{name}{OVERLAY_VIDEO}"
                show = stack.enter_context(write_video(target, frames_a_second(video) / every)) if overlay else None
                for number, frame in frames(video, every):
                    seen = number + 1
                    mask = segment(frame, f"{name}, frame {number}")
                    if show is not None:
                        show(labelled_overlay(frame, mask, voc_palette(), model.classes, everything))
                    write(mask, f"{name}/{number:06d}")
            if seen + every <= length:
                reporter.say(f"{video}: it says that it has {length} frames, and ends after {seen}; it may be damaged")
    return written


def _lengths(
    videos: dict[str, Path], photographs: dict[str, Path], out: Path, skip_bad: bool, reporter: Reporter
) -> dict[str, int]:
    """How many frames each video says that it has; of those that can be read, and whose masks would not take the place
    of anything else."""
    found = {}
    for name, video in videos.items():
        other = next((own for own in photographs if own.startswith(f"{name}/")), None)
        if other is not None:
            raise BadInput(
                f"{video}: its frames would have the same names as the photographs below {name}/, such as "
                f"{photographs[other]}; rename one of them."
            )
        there = out / name
        if there.is_dir() and any(there.iterdir()) and not (out / CLASSES).is_file():
            raise BadInput(f"{there}: masks of {video} would be written between what lies here; choose another --out.")
        try:
            found[name] = count_frames(video)
        except BadInput as error:
            if not skip_bad:
                raise
            reporter.say(f"skipped: {error}")
    return found


def _listed(found: dict[str, Path], names: Path) -> dict[str, Path]:
    """The photographs in a list of names, in its order."""
    try:
        wanted = dict.fromkeys(filter(None, map(str.strip, names.read_text(encoding="utf-8").splitlines())))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{names}: this list of names cannot be read ({brief(error)}).") from error
    missing = next((name for name in wanted if name not in found), None)
    if missing is not None or not wanted:
        what = "there are no names in it" if missing is None else f"there is no photograph '{missing}'"
        raise BadInput(f"{names}: {what}; a line is the name of a photograph without its ending.")
    return {name: found[name] for name in wanted}
