"""`segments`: everything in every photograph cut out by SAM, for the refinement `segments`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tagseg.data.images import read_image
from tagseg.data.photographs import find_photographs
from tagseg.errors import BadInput, explain_full_disk
from tagseg.files import write_json
from tagseg.progress import Reporter


def cut_segments(
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    encoder: str | os.PathLike[str],
    decoder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    points: int = 32,
    quiet: bool = False,
) -> list[Path]:
    """Cuts everything in every photograph out with SAM, and writes it for `masks.segments.folder`.

    What is there already is kept, so that the same call goes on where it was stopped.

    Args:
        images: photographs, or folders that are searched through; names below a folder are kept.
        encoder: SAM's image encoder as ONNX (see `tagseg.masks.sam.Sam`).
        decoder: SAM's decoder as ONNX.
        out: folder for `NAME.json`, a list of objects with `segmentation` in COCO's run lengths, `area`,
            `predicted_iou` and `stability_score`.
        points: of the grid, per side; 32 is published.
        quiet: say nothing.

    Returns:
        the files of all photographs.

    Raises:
        BadInput: no photograph is there, onnxruntime is missing, or a file is not what it should be.
    """
    if points < 1:
        raise BadInput(f"points is {points}; give at least 1 for each side of the grid.")
    found = find_photographs(images, out, (".json",))
    files = {name: Path(out) / f"{name}.json" for name in found}
    missing = [name for name in found if not files[name].is_file()]
    reporter = Reporter(quiet)
    if len(missing) < len(found):
        reporter.say(f"{len(found) - len(missing)} photographs have their segments already")
    if missing:
        from tagseg.masks.sam import Sam  # torch is imported only now

        network = Sam(Path(encoder), Path(decoder))
        with reporter.bar("segments", len(missing), "photographs") as advance, explain_full_disk(Path(out)):
            for number, name in enumerate(missing, start=1):
                segments = network.segments(read_image(found[name]), points)
                files[name].parent.mkdir(parents=True, exist_ok=True)
                write_json(
                    files[name],
                    [
                        {
                            "segmentation": s.runs,
                            "area": s.area,
                            "predicted_iou": s.predicted_iou,
                            "stability_score": s.stability,
                        }
                        for s in segments
                    ],
                    indent=None,
                )
                advance(number, f"{len(segments)} segments")
    return list(files.values())
