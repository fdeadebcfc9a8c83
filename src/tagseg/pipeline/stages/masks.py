"""Masks: a background score is chosen without masks, class maps are refined, and the strongest label of every pixel is
the pseudo-mask."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tagseg.data.readers.folder import write_class_names
from tagseg.masks.refinements import LearntRefinement, refinements
from tagseg.methods.refinements import load_network
from tagseg.pipeline.masking import choose_background, is_mask, make_masks
from tagseg.pipeline.parts import in_parts
from tagseg.pipeline.records import MasksRecord
from tagseg.pipeline.run import Run, Stage


def _inputs(run: Run) -> dict[str, Any]:
    s = run.settings.masks
    part, kept = s.part(after=False), {"background", "saliency", *s.names(after=False)} - {s.learnt or ""}
    settings = part.model_dump(mode="json", include=kept)
    if s.keep < 1:
        settings["keep"] = s.keep
    inputs = {**run.keys("mine", "affinity"), "refine": part.refine, "settings": settings}
    return inputs | (run.keys("saliency") if s.saliency else {})


def _work(run: Run, folder: Path) -> MasksRecord:
    s, samples = run.settings.masks, run.training
    store = run.class_maps()
    background = of_masks = choose_background(store, samples, s)
    walked = run.walked_maps()
    if walked is not None:
        store, learnt = walked, refinements().get(str(s.learnt))
        decision = load_network(learnt).decision if isinstance(learnt, LearntRefinement) else None
        of_masks = choose_background(store, samples, s) if decision is None else decision
    with run.reporter.bar("masks", len(samples), "photographs") as advance:
        work = partial(make_masks, store, samples, of_masks, s.part(after=False), folder)
        in_parts(work, len(samples), run.settings.processes, folder, advance)
    write_class_names(folder, run.data.classes)
    return MasksRecord(background=round(background, 4), background_of_masks=round(of_masks, 4))


STAGE = Stage(name="masks", record=MasksRecord, inputs=_inputs, work=_work, edited=is_mask)
