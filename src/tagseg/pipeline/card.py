"""The card of a trained network: what it names, from what it learnt, how good it is, and what binds who uses it."""

from __future__ import annotations

from pathlib import Path

import timm

from tagseg.data.dataset import Dataset
from tagseg.masks.refinements import steps_of
from tagseg.pipeline.networks import networks_of
from tagseg.pipeline.records import Metrics
from tagseg.pipeline.run import Run
from tagseg.pipeline.saliency import SALIENCY_WORDS, has_own_map
from tagseg.pipeline.settings import FitSettings
from tagseg.version import __version__

CARD = "MODEL.md"


def prior_in_words(settings: FitSettings, data: Dataset) -> str:
    """Returns what the masks of a run on this data set have seen beside the tags of their photographs."""
    seen = [] if settings.weights == "random" else ["weights of the backbone (ImageNet's tags, if they are timm's)"]
    if settings.train.learns_saliency or settings.masks.saliency:
        seen += _saliency(settings.data.saliency, data)
    if settings.data.texts is not None:
        seen.append("texts")
    if settings.masks.learnt is not None:
        seen += _file(settings.masks.of(settings.masks.learnt).weights)
    return ", ".join(seen) or "nothing"


def _saliency(source: str, data: Dataset) -> list[str]:
    """Where saliency maps are from, in words: people and networks know more than those that need neither."""
    if source not in SALIENCY_WORDS:
        return [f"saliency maps of {Path(source).name} (which may have learnt masks)"]
    own = sum(has_own_map(sample, source) for sample in data.train)
    made = ["saliency maps made without a network"] if own < len(data.train) else []
    return (["saliency maps of the data set (whose maker may have learnt masks)"] if own else []) + made


def _file(weights: str | None) -> list[str]:
    """What the weights of a network that comes after the classifier have seen, in words, where they are a file."""
    told = weights in (None, "pretrained", "random")
    return [] if told else [f"what the file {Path(str(weights)).name} has (masks, perhaps)"]


def model_card(run: Run, metrics: Metrics) -> str:
    """Returns the card of a run's segmentation network, as Markdown.

    Args:
        run: with its segmentation network.
        metrics: what was measured; true masks were for that alone.
    """
    settings, data = run.settings, run.data
    own = settings.segment.weights if settings.segment.network != "decoder" else None
    seen = ", and ".join([prior_in_words(settings, data), *_file(own)])
    lines = [
        f"# {data.root.resolve().name}, segmented by tags",
        "",
        f"A network that tagseg {__version__} has trained from {_labels(settings, metrics)} "
        f"(method: {settings.method}, seed {settings.seed}).",
        "",
        f"- **Classes**, from 1 on (0 is background): {', '.join(data.classes)}.",
        f"- **Photographs**: {len(data.train)} with tags for training, {len(data.val)} for evaluation.",
        f"- **Seen beside the tags**: {seen}.",
        f"- **Began with**: {'; '.join(_weights(name, weights) for name, weights in networks_of(settings))}.",
        "- **Licence**: what binds you are those of these weights and of the photographs; tagseg itself (Apache 2.0) "
        "asks for nothing.",
    ]
    tables = metrics.score_tables()
    if tables:
        lines += ["", "| measured with true masks | mIoU | precision | recall |", "|---|---|---|---|"]
        lines += [f"| {part} | {_one(t.miou)} | {_one(t.precision)} | {_one(t.recall)} |" for part, t in tables.items()]
        last = list(tables.values())[-1]
        lines += ["", "| class | IoU |", "|---|---|"]
        lines += [f"| {name} | {_one(scores.iou)} |" for name, scores in last.classes.items()]
    else:
        lines += ["", "Nothing is measured: the data set has no true masks."]
    changed = "\n".join(f"{key}: {value}" for key, value in settings.model_dump(mode="json").items())
    return "\n".join([*lines, "", "Every setting of the run:", "", "```", changed, "```", ""])


def _labels(settings: FitSettings, metrics: Metrics) -> str:
    """What the network has learnt from, in words."""
    corrected = 0 if metrics.train is None else metrics.train.corrected
    said = "tags alone, without a mask" if not corrected else f"tags, and {corrected} masks that people have corrected"
    return f"{said}, with segments of another network" if "segments" in steps_of(settings.masks.refine) else said


def _weights(name: str, weights: str) -> str:
    """A network and its weights in words, with the licence that timm knows."""
    if weights != "pretrained":
        return f"{name}, {'random weights' if weights == 'random' else f'weights of the file {Path(weights).name}'}"
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    licence = getattr(config, "license", None)
    return f"{name}, timm's weights ({licence or 'of a licence that timm does not tell'})"


def _one(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
