"""The pages of results are what the files of results say, and every page is found."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_pages_are_drawn_from_the_files():
    script = ROOT / "benchmarks" / "pages.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}; run python benchmarks/pages.py"


PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    """To files and pictures of the repository; what begins with http is not asked for."""
    text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_every_page_is_in_the_contents():
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").rglob("*.md")):
        assert str(page.relative_to(ROOT / "docs")) in listed, page


def test_tables_of_classes_have_classes_alone():
    """Other numbers of a chain stand beside its classes in the files."""
    heads = [
        lines[2]
        for page in sorted((ROOT / "docs" / "results").glob("*.md"))
        for lines in (part.splitlines() for part in page.read_text(encoding="utf-8").split("IoU of every class, ")[1:])
    ]
    assert heads
    for head in heads:
        assert head.startswith("| | background |")
        assert not {"miou", "oracle", "score", "recall", "noise"} & {cell.strip() for cell in head.split("|")}
