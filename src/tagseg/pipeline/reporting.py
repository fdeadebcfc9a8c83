"""Gathering what the report shows."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Dataset, Sample, read_mask, read_saliency
from tagseg.data.images import read_image, read_index_png, voc_palette
from tagseg.cores import cpu_count
from tagseg.data.map_store import MapStore
from tagseg.methods.base import load_method, uses_saliency
from tagseg.networks.precision import default_device, trainer_precision
from tagseg.pipeline.masking import MaskFolder
from tagseg.pipeline.mining import PRESENT, maps_at, upsampled
from tagseg.pipeline.settings import FitSettings
from tagseg.report.html import GalleryRow, Report
from tagseg.report.pictures import colour_mask, overlay_map, overlay_mask, thumbnail
from tagseg.segmentation.model import load

GALLERY, MAPS_SHOWN = 12, 2  # photographs a split, maps a photograph


def gather(
    data: Dataset,
    settings: FitSettings,
    stages: dict[str, dict[str, Any]],
    metrics: dict[str, Any],
    run: Path,
    corners: bool,
    accumulated: Accumulator | None = None,
) -> Report:
    """The report of the run in folder `run`; `stages` are the records of its finished stages, `accumulated` the
    cumulative maps of its training photographs."""
    counts = Counter(tag for sample in data.train for tag in sample.tags)
    return Report(
        title=f"{settings.method} on {data.root.resolve().name}",
        facts=[
            ("training photographs:", str(len(data.train))),
            ("evaluation photographs:", str(len(data.val))),
            ("classes:", str(len(data.classes))),
            ("backbone:", settings.backbone),
            ("weights:", Path(settings.weights).name),
            ("seed:", str(settings.seed)),
        ],
        classes=[(name, counts[number]) for number, name in enumerate(data.classes)],
        metrics=metrics,
        stages=stages,
        settings=settings.model_dump(mode="json"),
        versions=_versions(),
        gallery=_gallery(data, settings, run, corners, accumulated),
        skipped=[problem.text for problem in data.problems],
    )


def _versions() -> list[tuple[str, str]]:
    packages = (
        "tagseg",
        "torch",
        "torchvision",
        "timm",
        "lightning",
        "numpy",
        "opencv-python-headless",
        "pillow",
    )
    device = default_device()
    found = [("Python", platform.python_version())]
    for name in packages:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return [
        *found,
        ("device", f"{device.type} ({machine}, {cpu_count()} cores, {trainer_precision(device)})"),
    ]


def _gallery(
    data: Dataset, settings: FitSettings, run: Path, corners: bool, accumulated: Accumulator | None
) -> dict[str, list[GalleryRow]]:
    model = load(run)
    kept = run / "report"
    training, maps = MapStore(run / "mine"), MapStore(kept / "maps")
    walked = MapStore(run / "affinity" / "maps" if settings.masks.learnt else run / "none")
    salient = settings.masks.saliency or uses_saliency(load_method(settings.method), settings.train)
    grown = _grown(data, accumulated)

    def rows(samples: tuple[Sample, ...], store: MapStore, pseudo: bool) -> list[GalleryRow]:
        steps = np.linspace(0, len(samples) - 1, min(GALLERY, len(samples))).round().astype(int)
        return [_row(samples[i], store, pseudo) for i in steps]

    def _row(sample: Sample, store: MapStore, pseudo: bool) -> GalleryRow:
        photo = read_image(sample.image)
        size: tuple[int, int] = photo.shape[:2]
        stored = store.read(sample.name)
        shown = sample.tags if pseudo else tuple(np.flatnonzero(stored.tag_probabilities > PRESENT).tolist())
        stored = stored.only(shown)
        pictures = [("photograph", photo)]
        if pseudo and sample.tags:
            pictures += [(caption, overlay_map(photo, values)) for caption, values in grown(sample, size)]
        for number, values in zip(stored.classes[:MAPS_SHOWN], maps_at(stored, size, corners), strict=False):
            pictures.append((f"map: {data.classes[number]}", overlay_map(photo, values)))
        if pseudo and sample.name in walked and stored.classes:
            values = maps_at(walked.read(sample.name).only(shown[:1]), size, corners)[0]
            pictures.append((f"after the walk: {data.classes[shown[0]]}", overlay_map(photo, values)))
        if pseudo and salient:
            pictures.append(("saliency", overlay_map(photo, read_saliency(sample, size) / np.float32(255))))
        if pseudo:
            mask = read_index_png(MaskFolder(run / "masks")(sample))
            pictures.append(("pseudo-mask", overlay_mask(photo, mask, voc_palette())))
        kept_mask = MaskFolder(kept / "predictions")(sample)
        predicted = read_index_png(kept_mask) if kept_mask.exists() else model.predict(photo)
        pictures.append(("prediction", overlay_mask(photo, predicted, voc_palette())))
        if sample.mask is not None:
            pictures.append(("truth", colour_mask(read_mask(sample.mask), voc_palette())))
        tags = [(data.classes[c], _colour(c)) for c in sample.tags]
        return GalleryRow(sample.name, tags, [(caption, thumbnail(p)) for caption, p in pictures])

    return {
        "Training photographs": rows(data.train, training, pseudo=True),
        "Evaluation photographs": rows(data.val, maps, pseudo=False) if data.val else [],
    }


def _grown(
    data: Dataset, accumulated: Accumulator | None
) -> Callable[[Sample, tuple[int, int]], list[tuple[str, np.ndarray]]]:
    """The first tag's cumulative map of a photograph, early and half through the training."""
    if accumulated is None:
        return lambda sample, size: []  # noqa: ARG005
    rounds = [r for r in accumulated.rounds() if any(accumulated.maps(i, r).any() for i in range(len(data.train)))]
    shown = dict.fromkeys(rounds[:1] + rounds[len(rounds) // 2 : len(rounds) // 2 + 1])
    index = {sample.name: number for number, sample in enumerate(data.train)}

    def pictures(sample: Sample, size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
        name = data.classes[sample.tags[0]]
        return [
            (
                f"{name} after {r} epochs",
                upsampled(accumulated.maps(index[sample.name], r)[:1], size, accumulated.corners)[0],
            )
            for r in shown
        ]

    return pictures


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in voc_palette()[number + 1])
    return red, green, blue
