"""Frozen: where the classifier's backbone learns nothing, what it sees in every training photograph, computed once."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from tagseg.networks.weights import weights_digest
from tagseg.pipeline.featuring import store_features
from tagseg.pipeline.records import FeaturesRecord
from tagseg.pipeline.run import Run, Stage
from tagseg.pipeline.settings import uses_texts
from tagseg.segmentation.encoder import Encoder


def _inputs(run: Run) -> dict[str, Any]:
    s = run.settings
    return {
        "photographs": run.facts.digest(run.data.train),
        "method": run.method.features_as or run.method.trained_as or s.method,  # which makes the backbone
        "backbone": s.backbone,
        "weights": weights_digest(s.weights),
        "settings": {"side": s.train.side, "output_stride": getattr(s.train, "output_stride", None)},
        "cache": s.cache.model_dump(mode="json"),
        **({"values": True} if uses_texts(s) else {}),
    }


def _work(run: Run, folder: Path) -> FeaturesRecord:
    s = run.settings
    torch.manual_seed(s.seed)  # of weights that are random
    network: Any = run.method
    backbone = network(s.backbone, s.weights, run.data.classes, s.train, 1).backbone
    encoder = partial(Encoder, backbone, s.train.side)
    store = store_features(encoder, run.training, folder, "frozen", run.reporter, s.cache, s.processes)
    return FeaturesRecord(entries=len(store), bytes=sum(f.stat().st_size for f in folder.glob("*.safetensors")))


STAGE = Stage(
    name="frozen", record=FeaturesRecord, inputs=_inputs, work=_work, wanted=lambda run: run.settings.train.frozen
)
