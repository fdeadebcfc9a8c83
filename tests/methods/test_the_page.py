"""`docs/methods.md` names every method."""

from pathlib import Path

from tagseg.methods.table import method_names


def test_every_method_is_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    own = {name for name in method_names() if f"| `{name}` |" not in page}
    assert own <= {"oaa-localisation"}
