"""`export --to onnx`: a trained network for machines that have neither torch nor tagseg."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from tagseg.data.images import read_image
from tagseg.data.photographs import find_photographs
from tagseg.data.reading import read_dataset
from tagseg.errors import BadInput, explain_full_disk
from tagseg.export.folder import new_folder
from tagseg.files import write_text
from tagseg.pipeline.run_folder import data_of
from tagseg.progress import Reporter
from tagseg.segmentation.saved import find_model

MODEL, SCRIPT, CARD = "model.onnx", "predict.py", "MODEL.md"
COMPARED = 50  # photographs on which the network of 8 bits is compared


@dataclass(frozen=True)
class ExportedModel:
    """What was written.

    path: the ONNX file.
    difference: the largest difference of a probability from torch's, at three sizes.
    changed: share of pixels that get another class with weights of 8 bits; None: weights are as they were, or there
        were no photographs to compare with.
    """

    path: Path
    difference: float
    changed: float | None = None


def export_onnx(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    int8: bool = False,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    quiet: bool = False,
) -> ExportedModel:
    """Writes a trained network as ONNX, a script that needs numpy, Pillow and onnxruntime only, and its card.

    The network is looked at beside torch at three sizes before anything is kept (see `tagseg.segmentation.onnx_file`).

    Args:
        run: folder of a finished run or model.
        out: a folder that is not there yet, or is empty; it comes whole or not at all.
        int8: weights of 8 bits, a quarter of the size; what they change is counted on photographs.
        images: photographs for that, or folders of them; None: the first of the run's data set.
        quiet: say nothing.

    Raises:
        BadInput: there is no trained network, onnx or onnxruntime is missing, the network has a part that ONNX cannot
            tell, or `out` holds something.
    """
    folder, out = find_model(run), Path(out)
    reporter = Reporter(quiet)
    with new_folder(out) as aside, explain_full_disk(out):
        from tagseg.segmentation.model import load  # torch is imported only now
        from tagseg.segmentation.onnx_file import save_int8, save_onnx

        model = load(folder)
        difference, changed = save_onnx(model, aside / MODEL), None
        if int8:
            save_int8(aside / MODEL, aside / "int8.onnx")
            photos = _photographs(Path(run), images)
            changed = _changed(aside / MODEL, aside / "int8.onnx", photos, reporter) if photos else None
            os.replace(aside / "int8.onnx", aside / MODEL)
        write_text(aside / SCRIPT, files("tagseg.segmentation").joinpath("standalone.py").read_text(encoding="utf-8"))
        card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else _short_card(model.classes)
        write_text(aside / CARD, card + _how(difference, changed, int8))
    return ExportedModel(out / MODEL, difference, changed)


def _photographs(run: Path, images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None) -> list[Path]:
    if images is not None:
        found = find_photographs(images)
        return list(found.values())[:COMPARED]
    try:
        return [s.image for s in read_dataset(data_of(run, "give --images")).samples][:COMPARED]
    except BadInput:  # a model alone, or a run whose photographs are elsewhere
        return []


def _changed(one: Path, other: Path, photos: list[Path], reporter: Reporter) -> float:
    """The share of pixels that two ONNX files give different classes, which is the mean over photographs."""
    import onnxruntime
    from PIL import Image

    from tagseg.segmentation.standalone import predict

    sessions = [onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"]) for p in (one, other)]
    shares = []
    with reporter.bar("compare", len(photos), "photographs") as advance:
        for number, path in enumerate(photos, start=1):
            photo = Image.fromarray(read_image(path))
            masks = [predict(session, photo) for session in sessions]
            shares.append(float(np.mean(masks[0] != masks[1])))
            advance(number, "")
    return float(np.mean(shares))


def _short_card(classes: Sequence[str]) -> str:
    return f"# A network that segments\n\n- **Classes**, from 1 on (0 is background): {', '.join(classes)}.\n"


def _how(difference: float, changed: float | None, int8: bool) -> str:
    lines = [
        "",
        "## As ONNX",
        "",
        "    pip install numpy pillow onnxruntime",
        f"    python {SCRIPT} photo.jpg mask.png",
        "",
        "`image (B, H, W, 3)` uint8 RGB and `size (2,)` int64, the height and width of the answer, go in; "
        "`probabilities (B, C + 1, height, width)` come out. Normalisation, softmax and upsampling are inside. H and W "
        f"must be as `{SCRIPT}` makes them. A CRF or several scales, if the run's test protocol has them, are not "
        "inside.",
        "",
        f"Largest difference of a probability from torch's, at three sizes: {difference:.1g}.",
    ]
    if int8:
        lines.append(
            "Weights have 8 bits; "
            + (
                "what that changes was not measured, for there were no photographs."
                if changed is None
                else f"{100 * changed:.1f} % of the pixels of the data set's first photographs get another class."
            )
        )
    return "\n".join([*lines, ""])
