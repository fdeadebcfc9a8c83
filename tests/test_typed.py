"""What pages tell a reader to type can be typed: commands, options, settings, methods, recipes, refinements."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

from tagseg.cli import app
from tagseg.masks.refinements import refinements
from tagseg.methods.table import method_names
from tagseg.pipeline.setting_list import setting_list
from tagseg.pipeline.settings import resolve

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
KEYS = {setting.key for name in method_names() for setting in setting_list(name)}
PARTS = {key.rsplit(".", 1)[0] for key in KEYS if "." in key}


def typed(page: Path) -> Iterator[str]:
    """Yields every line of the page's blocks of code, and what stands between backquotes."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    for fenced, indented in re.findall(r"(?ms)^```\w*\n(.*?)^```|((?:^ {4,}\S.*\n)+)", text):
        yield from (line.strip() for line in (fenced or indented).splitlines())
    for code in re.findall(r"`([^`]+)`", re.sub(r"(?ms)^```.*?^```", "", text)):
        yield " ".join(code.split())


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yields the words of every program that the page calls: its name first, without what stands behind a comment."""
    for line in typed(page):
        for part in re.split(r";|&&|\|\||\$\(", line.split(" #")[0]):
            words = part.split()
            for number, word in enumerate(words):
                if word in ("tagseg", "tagseg.cli") and words[number + 1 :]:
                    yield "tagseg", words[number + 1 :]
                    break
                if re.fullmatch(r"benchmarks/\w+\.py", word):
                    yield word, words[number + 1 :]
                    break


def source_of(benchmark: str) -> str:
    """Returns the text of a benchmark and of those that it takes something from."""
    text = (ROOT / benchmark).read_text(encoding="utf-8")
    others = [ROOT / "benchmarks" / f"{name}.py" for name in re.findall(r"(?m)^from (\w+) import", text)]
    return text + "".join(other.read_text(encoding="utf-8") for other in others if other.exists())


def option(word: str) -> str | None:
    found = re.match(r"--[a-z][a-z-]*", word)
    return found[0] if found else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_their_options_exist(page: Path):
    for program, words in commands(page):
        if program != "tagseg":
            for name in filter(None, map(option, words)):
                assert f'"{name}"' in source_of(program), (program, name)
            continue
        if words[0] not in COMMANDS:  # `tagseg --help`, and sentences with the name
            assert page.name == "adding-a-method.md" or not re.fullmatch(r"[a-z][a-z-]*", words[0]), words
            continue
        command = COMMANDS[words[0]]
        inner = getattr(command, "commands", {})
        command = inner.get(words[1], command) if words[1:] else command
        known = {name for given in command.params for name in (*given.opts, *given.secondary_opts)} | {"--help"}
        for name in filter(None, map(option, words)):
            assert name in known, (words[0], name)


KEY = re.compile(r"(?<![\w./-])(?:train|mine|masks|segment|predict|cache|data|encoder|log)(?:\.[a-z_]+)+\b")
NO_SETTINGS = {"train.txt", "data.yaml", "encoder.onnx", "log.csv", "encoder.json"}  # files
# what a command is refused for, and what a published recipe says in steps
NO_SETTINGS |= {"train.epoch", "segment.steps"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_exist(page: Path):
    """Those that `--set` gives, and every `train.something` between backquotes."""
    assert {key for line in typed(page) for key in KEY.findall(line)} <= KEYS | PARTS | NO_SETTINGS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_methods_recipes_and_refinements_exist(page: Path):
    for program, words in commands(page):
        if program != "tagseg" or words[0] not in ("fit", "refine", "plan"):
            continue
        for given, name in pairwise(words):
            if given == "--refine":
                assert set(name.split("+")) <= {*refinements(), "none"}, name
            elif given in ("--method", "--recipe") and name != name.upper() and not name.endswith((".py", ".yaml")):
                assert resolve(name)
