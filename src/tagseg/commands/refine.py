"""`refine`: rough masks of any origin to sharp ones, a folder at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagseg.data.images import numbers_in, read_image, read_index_png, voc_palette, write_mask
from tagseg.data.photographs import OVERLAY, find_photographs
from tagseg.data.readers.folder import write_class_names
from tagseg.data.walking import composed
from tagseg.errors import BadInput, brief, explain_full_disk
from tagseg.export.mask_formats import mask_formats, read_masks
from tagseg.labels import IGNORE
from tagseg.masks.refinements import NONE, FeatureRefinement, Refinement
from tagseg.networks.settings import EncoderSettings
from tagseg.pipeline.settings import MaskSettings, sharpening
from tagseg.progress import Reporter
from tagseg.report.pictures import labelled_overlay
from tagseg.report.sheets import write_picture

Rough = Path | Callable[[], np.ndarray]  # a file of scores or numbers, or what draws a mask


@dataclass(frozen=True)
class Refined:
    """The masks written, and how many a second."""

    masks: list[Path]
    per_second: float


def refine(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    masks: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    refine: str = "crf",
    crf: str = "irn-label",
    encoder: EncoderSettings | None = None,
    overlay: bool = False,
    threads: int | None = None,
    quiet: bool = False,
) -> Refined:
    """Refines the rough mask of every photograph.

    A rough mask is `NAME.png`, class indices with 255 where nothing is known, or `NAME.npy`, scores `(L, H, W)` of
    which the first is the background's. Hard masks go into the CRF as labels that are believed with its `gt_prob`.

    Args:
        images: photographs, or folders that are searched through; names below a folder are kept.
        masks: folder of rough masks of the same names, or masks in any other format of `tagseg.export.mask_formats`;
            photographs without one are left out.
        out: folder for the refined masks (palette PNG).
        refine: a refinement that learns nothing (see `tagseg.masks.refinements`), or several with + between them.
        crf: a name of `tagseg.masks.crf_parameters.CRFS`.
        encoder: the frozen transformer, for `proxy` and `gcn`; None: the default one.
        overlay: also write `NAME.overlay.jpg`.
        threads: photographs at a time; by default one for each core.

    Raises:
        BadInput: nothing to refine, or a mask that does not fit its photograph.
    """
    settings = sharpening(refine, crf)
    masks, out = Path(masks), Path(out)
    if not masks.exists():
        raise BadInput(f"{masks}: there is no such folder of rough masks.")
    found = find_photographs(images, out, (".png", OVERLAY) if overlay else (".png",))
    there, classes = _rough_masks(masks)
    pairs = [(name, photo, there[name]) for name, photo in found.items() if name in there]
    if not pairs:
        raise BadInput(f"{masks}: no mask has the name of a photograph, for example {next(iter(found))}.png or .npy.")
    if out.resolve() == masks.resolve():
        raise BadInput(f"{out}: these are the rough masks themselves, which stay as they are; choose another --out.")
    _refuse_binary([rough for _, _, rough in pairs])
    from tagseg.pipeline.masking import refinement_threads  # torch is imported only now
    from tagseg.pipeline.networks import check_cells
    from tagseg.segmentation.encoder import load_encoder, side_by_side

    reporter = Reporter(quiet)
    if len(pairs) < len(found):
        reporter.say(f"{len(found) - len(pairs)} photographs have no rough mask and are left out")

    def work(item: tuple[str, Path, Rough]) -> Path:
        name, photo_path, rough = item
        photo = read_image(photo_path)
        mask = _refine_one(photo, name, rough, settings, encoder)
        write_mask(out / f"{name}.png", mask)
        if overlay:
            write_picture(out / f"{name}{OVERLAY}", labelled_overlay(photo, mask, voc_palette(), classes))
        return out / f"{name}.png"

    if any(isinstance(step, FeatureRefinement) for step in settings.steps):
        seen = encoder or EncoderSettings()
        grid = load_encoder(seen).grid  # once, before threads ask for it; what does not fit is told now
        check_cells(grid, seen.side, settings.steps)
    count = threads or refinement_threads()
    begun, written = time.perf_counter(), []
    with reporter.bar("refine", len(pairs), "photographs") as advance, explain_full_disk(out):
        for path in side_by_side(work, pairs, count):
            written.append(path)
            advance(len(written), "")
        if classes:
            write_class_names(out, classes)
    return Refined(written, len(written) / (time.perf_counter() - begun))


def _rough_masks(path: Path) -> tuple[dict[str, Rough], tuple[str, ...]]:
    """Rough masks by name: files of scores before files of numbers, or what is there in another format, and then the
    class names too."""
    if path.is_dir():
        files = {composed(p.relative_to(path).as_posix()): p for p in sorted(path.rglob("*")) if p.is_file()}
        found = {
            name[:-4]: file for ending in (".png", ".npy") for name, file in files.items() if name.endswith(ending)
        }
        if ".npy" in {file.suffix for file in found.values()} or not any(
            kind.holds(path) for kind in mask_formats().values() if not kind.plain
        ):
            return dict(found), ()
    read = read_masks(path)
    return dict(read.masks), read.classes


def _refuse_binary(masks: list[Rough]) -> None:
    """Masks of 0 and 255 alone name no class: 255 is meant for the object, and would be read as what is not known."""
    ignored = False
    for path in masks:
        if not isinstance(path, Path) or path.suffix == ".npy":
            return
        values = set(numbers_in(read_index_png(path)))
        if values - {0, IGNORE}:
            return
        ignored = ignored or IGNORE in values
    if ignored:
        raise BadInput(
            f"{masks[0]}: the masks hold nothing but 0 and {IGNORE}, and {IGNORE} means that nothing is known; write "
            f"the number of its class where the object is, with numpy: mask[mask == {IGNORE}] = number."
        )


def _refine_one(
    photo: np.ndarray, name: str, rough: Rough, settings: MaskSettings, encoder: EncoderSettings | None
) -> np.ndarray:
    from tagseg.pipeline.masking import refine_scores

    if isinstance(rough, Path) and rough.suffix == ".npy":
        try:
            scores = np.load(rough, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BadInput(f"{rough}: these scores cannot be read ({brief(error)}).") from error
        if not isinstance(scores, np.ndarray) or scores.dtype.kind not in "fiub":
            raise BadInput(f"{rough}: these are no scores; save an array of numbers (L, H, W) with numpy.save.")
        if scores.ndim != 3 or scores.shape[1:] != photo.shape[:2]:
            raise BadInput(f"{rough}: the scores are {scores.shape}; give (L, {photo.shape[0]}, {photo.shape[1]}).")
        if not np.isfinite(scores).all():
            raise BadInput(f"{rough}: these scores hold numbers that are not finite; make them again.")
        return refine_scores(photo, scores.astype(np.float32), settings, name, encoder).argmax(axis=0).astype(np.uint8)
    labels = read_index_png(rough) if isinstance(rough, Path) else rough()
    rough = rough if isinstance(rough, Path) else Path(name)
    if labels.shape != photo.shape[:2]:
        raise BadInput(
            f"{rough}: the mask has {labels.shape[1]} x {labels.shape[0]} pixels, its photograph {photo.shape[1]} x "
            f"{photo.shape[0]}; make them the same size."
        )
    known = labels != IGNORE
    if labels.max(initial=0) > IGNORE:
        raise BadInput(
            f"{rough}: the mask holds the value {labels.max()}; {IGNORE - 1} is the highest class that can be."
        )
    values = np.unique(labels[known])
    if len(values) < 2:
        return np.full_like(labels, values[0] if len(values) else 0)
    numbers = np.where(known, np.searchsorted(values, np.where(known, labels, values[0])), IGNORE)
    scores = (numbers == np.arange(len(values)).reshape(-1, 1, 1)).astype(np.float32)
    scores[:, ~known] = 1 / len(values)
    first, *rest = settings.steps
    if isinstance(first, Refinement) and first.from_labels is not None:
        scores = first.from_labels(photo, numbers, len(values), settings.of(first.name))
        settings = settings.model_copy(update={"refine": "+".join(r.name for r in rest) or NONE})
    return values[refine_scores(photo, scores, settings, name, encoder).argmax(axis=0)].astype(np.uint8)
