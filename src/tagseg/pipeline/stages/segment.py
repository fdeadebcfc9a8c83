"""Segmentation: the network that people take home, taught by the pseudo-masks, or the method's own as it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from tagseg.files import read_json
from tagseg.networks.backbone import Backbone
from tagseg.networks.weights import earlier_run, weights_digest
from tagseg.pipeline.records import TrainingRecord
from tagseg.pipeline.run import Run, Stage
from tagseg.pipeline.segmenting import backbone_of, own_model, teach, teach_decoder, with_encoder
from tagseg.pipeline.settings import segments_itself
from tagseg.segmentation.model import with_protocol
from tagseg.segmentation.saved import DESCRIPTION
from tagseg.settings import as_ever


def _inputs(run: Run) -> dict[str, Any]:
    s = run.settings.segment
    inputs: dict[str, Any]
    if segments_itself(run.settings):
        return {**run.keys("train"), "source": "method"}
    if s.network == "decoder":
        before = run.keys("features", "masks", "relabel")
        inputs = {**before, "decoder": s.decoder.model_dump(mode="json"), "seed": run.settings.seed}
        if earlier_run(run.settings.weights):
            inputs["weights"] = weights_digest(run.settings.weights)
        return inputs
    unused = {"decoder"}  # what has no effect makes nothing again, so that runs of older versions stay as they are
    if s.network != "beco":
        unused |= {"beco"}
    if s.clip_from is None:
        unused |= {"clip_from", "clip_side"}
    unused |= as_ever(s)
    inputs = {**run.keys("masks", "relabel"), "settings": s.model_dump(mode="json", exclude=unused)}
    if s.weights:
        inputs["weights"] = weights_digest(s.weights)
    return inputs


def _work(run: Run, folder: Path) -> TrainingRecord:
    s, earlier = run.settings.segment, earlier_run(run.settings.weights)
    if segments_itself(run.settings):
        own_model(run.classifier(), run.data.classes).save(folder)
        return TrainingRecord(epochs=[])
    if s.network == "decoder":
        head, epochs = teach_decoder(
            run, run.pseudo_masks(), s.decoder, folder, "segment", seed=run.settings.seed + 1, start=earlier
        )
        with_encoder(run, head, s.decoder).save(folder)
        return TrainingRecord(epochs=epochs)
    torch.manual_seed(run.settings.seed + 1)
    model, epochs = teach(
        partial(_backbone, run),
        run.training,
        run.pseudo_masks(),
        run.data.classes,
        s,
        run.place(folder, "segment"),
        seed=run.settings.seed,
        views_seed=run.settings.seed + 1,
        start=earlier,
    )
    model.save(folder)
    return TrainingRecord(epochs=epochs)


def _backbone(run: Run) -> Backbone:
    """A backbone that is ready to learn."""
    s = run.settings.segment
    name, weights = backbone_of(s, run.settings)
    backbone = Backbone(name, weights if s.start == "weights" else "random", s.output_stride)
    if s.start == "classifier":
        taught = run.classifier().backbone
        backbone.load_state_dict(taught.state_dict())
        backbone.mean, backbone.std = taught.mean, taught.std  # the colours that these weights know
    if weights != "random":
        backbone.freeze(s.early_stride, s.norms)
    return backbone


def _describe(run: Run, folder: Path) -> dict[str, Any]:
    return {DESCRIPTION: with_protocol(read_json(folder / DESCRIPTION), run.settings.predict)}


STAGE = Stage(name="segment", record=TrainingRecord, inputs=_inputs, work=_work, describe=_describe)
