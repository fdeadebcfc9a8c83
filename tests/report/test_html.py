import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

from tagseg.report.curves import bar_chart, line_chart
from tagseg.report.html import GalleryRow, Report, render
from tagseg.report.pictures import colour_mask, overlay_map, overlay_mask, thumbnail

PALETTE = np.arange(768, dtype=np.uint8).reshape(256, 3)


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "title": "cam on <b>mine</b>",
        "facts": [("seed:", "0")],
        "classes": [("cat", 3)],
        "metrics": {},
        "stages": {
            "train": {"seconds": 75.4, "resumed": False, "epochs": [{"loss": 1.0, "seconds": 2, "waiting": 0.25}]}
        },
        "settings": {"masks": {"background": "auto"}},
        "versions": [("torch", "9")],
        "gallery": {
            "Training photographs": [
                GalleryRow("a", [("cat", (1, 2, 3))], [("photograph", np.zeros((4, 5, 3), np.uint8))])
            ]
        },
    }
    return Report(**{**values, **changes})


def test_a_run_without_masks_has_a_report_too():
    page = render(report())
    assert "nothing was measured" in page
    assert "1 min 15 s" in page
    assert "25.0 %" in page
    assert page.count("data:image/jpeg") == 1


def test_names_are_not_taken_for_markup():
    page = render(report(skipped=["a<script>.jpg: broken"]))
    assert "<b>mine</b>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize(("background", "words"), [("auto", "Otsu"), (0.3, "as set")])
def test_the_distance_to_the_oracle_is_said(background: object, words: str):
    part = {
        "miou": 40.0,
        "precision": 50.0,
        "recall": None,
        "classes": {"background": {"iou": 90.0}, "cat": {"iou": None}},
    }
    train = {
        "seeds": part, "pseudo_masks": part, "background": 0.31, "oracle": {"background": 0.5, "miou": 42.5},
        "curve": {"background": [0, 1], "miou": [10, None]},
    }  # fmt: skip
    page = render(
        report(
            metrics={"train": train},
            stages={"masks": {"seconds": 1.0, "resumed": True, "background": 0.31, "background_of_masks": 0.25}},
            settings={"masks": {"background": background, "refine": "irn+crf", "saliency": False}},
        )
    )
    assert words in page
    assert "Background score 0.310" in page
    assert "would reach 42.5: 2.5 points more" in page
    assert "since it went on" in page
    assert "Refinement of the pseudo-masks: irn+crf, after which the background score is 0.250." in page


def test_charts_are_well_formed():
    lines = line_chart({"a": ([1, 2, 3], [3, 2, 1])}, x="epoch", y="loss & more", marks={"here": 2})
    bars = bar_chart({"a": [1, None], "b": [2, 3]}, ["x", "y"], x="IoU")
    for chart in (lines, bars):
        assert ElementTree.fromstring(chart).tag.endswith("svg")
    assert "loss &amp; more" in lines


def test_pictures():
    image = np.full((40, 60, 3), 200, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:40] = 7
    mask[:5] = 255
    assert colour_mask(mask, PALETTE)[20, 30].tolist() == PALETTE[7].tolist()
    assert colour_mask(mask, PALETTE)[0, 0].tolist() == [224, 224, 224]
    laid = overlay_mask(image, mask, PALETTE)
    np.testing.assert_allclose(laid[20, 30], 0.45 * 200 + 0.55 * PALETTE[7], atol=1)
    assert laid[10, 20].tolist() == [255, 255, 255]
    hot = overlay_map(image, np.linspace(0, 1, 2400).reshape(40, 60))
    assert hot[39, 59].sum() > hot[0, 0].sum()
    assert thumbnail(image, 30).shape == (20, 30, 3)
    assert thumbnail(image, 300).shape == image.shape
