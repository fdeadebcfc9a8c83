"""The list of all settings, which the code makes."""

from pathlib import Path

import pytest

from tagseg.methods.table import method_names
from tagseg.pipeline.setting_list import markdown, own_settings, setting_list
from tagseg.pipeline.settings import resolve


def test_the_page_is_what_the_code_says():
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == markdown(), "tagseg settings --markdown > docs/settings.md"


@pytest.mark.parametrize("method", method_names())
def test_every_key_is_one_that_can_be_set(method: str):
    found = setting_list(method)
    assert len({s.key for s in found}) == len(found)
    chosen = resolve(method, {})
    for setting in found:
        value = chosen
        for part in setting.key.split("."):
            value = getattr(value, part)
    assert {s.key for s in own_settings(method)} <= {s.key for s in found}


def test_what_a_line_says():
    (keep,) = setting_list(part="masks.keep")
    assert (keep.kind, keep.default) == ("a number", "1")
    assert keep.about.startswith("share of the pixels of every label that stay")
    (seed,) = setting_list(part="seed")
    assert seed.default == "0"
    assert [s.default for s in setting_list(part="mine.flip")] == ["true"]
