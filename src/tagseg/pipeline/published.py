"""What papers and published codes have, beside what the recipes have."""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tagseg.pipeline.settings import FitSettings, parse_yaml, resolve

# for training: VOC 2012 with SBD, COCO 2014, CUB-200-2011, ILSVRC 2012
PHOTOGRAPHS = {"voc": 10_582, "coco": 82_783, "cub": 5_994, "ilsvrc": 1_281_167}
NOTHING, UNREAD = "-", "?"
PARTS = "parts/"  # blocks of lines that several recipes share


@dataclass(frozen=True)
class Line:
    """A hyper-parameter of a recipe.

    setting: its dotted key; or a name, where it is none of ours.
    paper, code: what is published; "-" where nothing is said, "?" where it was not at hand.
    ours: the recipe's value.
    shown: how that is written in the words of the publication, if it is the same but for words.
    why: why ours is not that of the paper and of the code.
    """

    setting: str
    paper: Any
    code: Any
    ours: Any
    shown: Any
    why: str


def published(recipe: str) -> list[Line]:
    """Returns the hyper-parameters of a recipe of which something is published, in the order of `published.yaml`.

    They are none where the recipe follows nobody.

    Raises:
        BadInput: there is no such recipe.
    """
    settings, lines = resolve(recipe), []
    for name, told in _lines(recipe).items():
        found = _value(settings, recipe, name)
        ours = told.get("ours", NOTHING) if found is None else found
        lines.append(Line(name, told["paper"], told["code"], ours, told.get("ours"), told.get("why", "")))
    return lines


def markdown(recipe: str) -> str:
    """Returns the hyper-parameters of a recipe as a table."""
    rows = ["| setting | paper | code | ours | why |", "|---|---|---|---|---|"]
    for line in published(recipe):
        cells = (f"`{line.setting}`", *map(_word, (line.paper, line.code, line.ours)), line.why)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def names() -> list[str]:
    """Returns the recipes of which something is published."""
    return [name for name in _table() if not name.startswith(PARTS)]


def _lines(block: str) -> dict[str, dict[str, Any]]:
    """The lines of a block, those of the blocks that it is like among them."""
    own = _table().get(block, {})
    found: dict[str, dict[str, Any]] = {}
    for other in own.get("like", ()):
        found |= _lines(other)
    return found | {name: told for name, told in own.items() if name != "like"}


def _value(settings: FitSettings, recipe: str, name: str) -> Any:
    """The value of a setting as a recipe file would have it; of steps their number; None where it is no setting."""
    photographs = PHOTOGRAPHS[recipe.split("/")[0]]
    if name == "steps":
        return settings.train.steps(photographs)
    if name == "segment.steps":
        return settings.segment.epochs * -(-photographs // settings.segment.batch_size)
    value: Any = settings.model_dump(mode="json")
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _word(value: Any) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)


@lru_cache
def _table() -> dict[str, dict[str, Any]]:
    text = (importlib.resources.files("tagseg") / "recipes" / "published.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = parse_yaml(text)
    return found
