"""Features: what the frozen encoder sees in every training photograph, where something learns or spreads along it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tagseg.networks.weights import weights_digest
from tagseg.pipeline.featuring import store_features
from tagseg.pipeline.records import FeaturesRecord
from tagseg.pipeline.run import Run, Stage
from tagseg.segmentation.encoder import load_encoder


def _inputs(run: Run) -> dict[str, Any]:
    settings = run.settings.encoder
    return {
        "photographs": run.facts.digest(run.data.train),
        "encoder": settings.model_dump(mode="json", exclude={"weights"}),
        "weights": weights_digest(settings.weights),
        "cache": run.settings.cache.model_dump(mode="json"),
    }


def _work(run: Run, folder: Path) -> FeaturesRecord:
    s, encoder = run.settings, partial(load_encoder, run.settings.encoder)
    store = store_features(encoder, run.training, folder, "features", run.reporter, s.cache, s.processes)
    return FeaturesRecord(entries=len(store), bytes=sum(f.stat().st_size for f in folder.glob("*.safetensors")))


STAGE = Stage(name="features", record=FeaturesRecord, inputs=_inputs, work=_work, wanted=lambda run: run.uses_encoder)
