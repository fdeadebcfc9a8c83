"""Relabel: where the refinement has one that is taught, a decoder on the frozen features learns the pseudo-masks of all
photographs, and what it sees of their own tags makes new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tagseg.data.readers.folder import write_class_names
from tagseg.networks.settings import DecoderSettings
from tagseg.pipeline.masking import is_mask
from tagseg.pipeline.records import TrainingRecord
from tagseg.pipeline.run import Run, Stage
from tagseg.pipeline.segmenting import label_again, teach_decoder


def _inputs(run: Run) -> dict[str, Any]:
    s = run.settings.masks
    return {
        **run.keys("features", "masks"),
        "decoder": s.of(str(s.taught)).model_dump(mode="json"),
        "settings": s.part(after=True).model_dump(mode="json", include={"refine", *s.names(after=True)}),
        "seed": run.settings.seed,
    }


def _work(run: Run, folder: Path) -> TrainingRecord:
    s = run.settings.masks
    settings: DecoderSettings = s.of(str(s.taught))
    head, epochs = teach_decoder(
        run, run.first_masks(), settings, folder, "relabel", seed=run.settings.seed + 3, keep="decoder.safetensors"
    )
    label_again(run, head, s.part(after=True), folder)
    write_class_names(folder, run.data.classes)
    return TrainingRecord(epochs=epochs)


STAGE = Stage(
    name="relabel",
    record=TrainingRecord,
    inputs=_inputs,
    work=_work,
    wanted=lambda run: run.settings.masks.taught is not None,
    edited=is_mask,
)
