import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np

from tagseg.report.curves import bar_chart, line_chart
from tagseg.report.html import Chart, GalleryRow, Report, StageLine, Tile, render
from tagseg.report.pictures import overlay_map, overlay_mask, thumbnail

PALETTE = np.arange(768, dtype=np.uint8).reshape(256, 3)


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "title": "cam on <b>mine</b>",
        "facts": [("seed:", "0")],
        "tiles": [],
        "remarks": ["Background score 0.310, as set."],
        "charts": [Chart("Loss", {"loss": ([1], [1.0])}, x="epoch", y="loss")],
        "gallery": {
            "Training photographs": [
                GalleryRow("a", [("cat", (1, 2, 3))], [("photograph", np.zeros((4, 5, 3), np.uint8))])
            ]
        },
        "stages": [StageLine("train", 75.4, waiting=0.25)],
        "classes": [("cat", 3)],
        "settings": {"masks": {"background": "auto"}},
        "versions": [("torch", "9")],
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


def test_what_was_measured_is_shown_with_its_classes():
    tile = Tile("Seeds", "training photographs", 40.0, 50.0, None, {"background": 90.0, "cat": None})
    page = render(report(tiles=[tile], stages=[StageLine("masks", 1.0, remark="since it went on")]))
    assert "<b>40.0</b>" in page
    assert "recall \N{EN DASH}" in page
    assert "<td>cat</td><td>\N{EN DASH}</td>" in page
    assert "Background score 0.310" in page
    assert "since it went on" in page


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
    laid = overlay_mask(image, mask, PALETTE)
    np.testing.assert_allclose(laid[20, 30], 0.45 * 200 + 0.55 * PALETTE[7], atol=1)
    assert laid[10, 20].tolist() == [255, 255, 255]
    hot = overlay_map(image, np.linspace(0, 1, 2400).reshape(40, 60))
    assert hot[39, 59].sum() > hot[0, 0].sum()
    assert thumbnail(image, 30).shape == (20, 30, 3)
    assert thumbnail(image, 300).shape == image.shape
