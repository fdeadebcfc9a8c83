"""The card beside a trained network."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tagseg.data.reading import read_dataset
from tagseg.pipeline.card import prior_in_words
from tagseg.pipeline.networks import networks_of
from tagseg.pipeline.settings import resolve


def test_the_card_says_what_the_network_is(tiny_run: Any):
    text = (tiny_run.folder / "segment" / "MODEL.md").read_text(encoding="utf-8")
    assert "**Photographs**: 10 with tags for training, 4 for evaluation." in text
    assert "**Seen beside the tags**: nothing." in text
    assert f"| segmentation | {tiny_run.metrics.val.segmentation.miou:.1f} |" in text
    for name in tiny_run.metrics.val.segmentation.classes:
        assert name in text


def test_every_network_that_a_run_begins_with(tiny_set: Path):
    data = read_dataset(tiny_set)
    first = {"backbone": "resnet50", "encoder.name": "test_vit", "encoder.weights": "random"}
    assert networks_of(resolve("cam", first)) == (("resnet50", "pretrained"),)
    later = {"masks.refine": "irn", "masks.irn.backbone": "resnet101", "masks.irn.weights": "of_people.pth"}
    network = {"segment.backbone": "test_resnet", "segment.weights": "of_coco.pth", "segment.start": "weights"}
    chosen = resolve("cam", {**first, **later, **network})
    others = (("resnet101", "of_people.pth"), ("test_resnet", "of_coco.pth"))
    assert networks_of(chosen) == (("resnet50", "pretrained"), *others)
    assert "what the file of_people.pth has" in prior_in_words(chosen, data)
    decoded = resolve("photos/cam", first)
    assert networks_of(decoded) == (("resnet50", "pretrained"), ("test_vit", "random"))


def test_whose_saliency_maps_were_seen(tiny_set: Path):
    """Made on the spot they know nothing; others may have been taught by masks."""
    data = read_dataset(tiny_set)
    salient = replace(data, train=tuple(replace(s, saliency=s.image) for s in data.train))
    partly = replace(data, train=(*salient.train[:1], *data.train[1:]))

    def seen(data: Any, source: str) -> str:
        return prior_in_words(resolve("eps", {"weights": "random", "data.saliency": source}), data)

    assert seen(data, "auto") == seen(salient, "built-in") == "saliency maps made without a network"
    assert seen(salient, "auto") == "saliency maps of the data set (whose maker may have learnt masks)"
    assert seen(partly, "auto") == f"{seen(salient, 'auto')}, {seen(data, 'auto')}"
    assert seen(salient, "u2net.onnx") == "saliency maps of u2net.onnx (which may have learnt masks)"
