"""The card beside a trained network."""

from typing import Any


def test_the_card_says_what_the_network_is(tiny_run: Any):
    text = (tiny_run.folder / "segment" / "MODEL.md").read_text(encoding="utf-8")
    assert "**Photographs**: 10 with tags for training, 4 for evaluation." in text
    assert "**Seen beside the tags**: nothing." in text
    assert f"| segmentation | {tiny_run.metrics.val.segmentation.miou:.1f} |" in text
    for name in tiny_run.metrics.val.segmentation.classes:
        assert name in text
