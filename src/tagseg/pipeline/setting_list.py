"""Every setting with what it is: the comment beside its field, or what is the same wherever that name stands."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from tagseg.methods.table import method_names, method_settings
from tagseg.pipeline.settings import FitSettings
from tagseg.settings import TrainSettings


@dataclass(frozen=True)
class Setting:
    """A setting.

    key: as `--set` has it.
    kind: what it may be, in the words of the code.
    default: where no recipe says another; None where every method or recipe says it.
    about: what it is, a sentence or two; empty where its name says all.
    """

    key: str
    kind: str
    default: str | None
    about: str


def setting_list(method: str = "cam", part: str = "") -> list[Setting]:
    """Returns every setting of a run by a method, in the order of the code.

    Args:
        method: its name.
        part: only those whose keys begin so.

    Raises:
        BadInput: there is no such method.
    """
    return [s for s in _walk(FitSettings, "", method_settings(method)) if s.key.startswith(part)]


def own_settings(method: str) -> list[Setting]:
    """Returns those settings of a method's training that not every method has."""
    common = set(TrainSettings.model_fields)
    return [s for s in _walk(method_settings(method), "train.", None) if s.key.split(".")[1] not in common]


def markdown() -> str:
    """Returns the page of all settings, those of every method's training last."""
    common = [
        s for s in setting_list() if not s.key.startswith("train.") or s.key.split(".")[1] in TrainSettings.model_fields
    ]
    lines = [
        "# Settings",
        "",
        "    tagseg settings [PART] [--method METHOD]",
        "",
        "Any of them changes with `--set KEY=VALUE`, or in a YAML file given to `--recipe`. Defaults are those of the",
        "code; a recipe (`tagseg recipes NAME`) says its own. A test compares this page with the code, which makes it:",
        "`tagseg settings --markdown`.",
        "",
        *_table(common),
    ]
    for name in method_names():
        lines += ["", f"## `--method {name}`", "", *_table(own_settings(name))]
    return "\n".join([*lines, ""])


def _table(settings: list[Setting]) -> list[str]:
    rows = ["| setting | what it may be | default | what it is |", "|---|---|---|---|"]
    for s in settings:
        default = "" if s.default is None else f"`{s.default}`"
        rows.append(f"| `{s.key}` | {s.kind} | {default} | {s.about.replace('|', '&#124;')} |")
    return rows


def _walk(kind: type[BaseModel], prefix: str, train: type[BaseModel] | None, value: Any = None) -> Iterator[Setting]:
    """The settings of a class below a prefix; `value` holds other defaults than those of the class."""
    for name, field in kind.model_fields.items():
        inner = train if name == "train" and train is not None and not prefix else _class_in(field.annotation)
        default = getattr(value, name) if value is not None else field.get_default(call_default_factory=True)
        said, about = _source(kind).get(name, ("", ""))
        if inner is not None and default is None:
            yield Setting(f"{prefix}{name}", "settings, or null", "null", about or _COMMON.get(name, ""))
            continue
        if inner is not None:
            known = default if isinstance(default, BaseModel) else None
            yield from _walk(inner, f"{prefix}{name}.", None, known)
            continue
        shown = None if default is PydanticUndefined else _shown(default)
        ending = "weight" if name.endswith("_weight") else name
        yield Setting(f"{prefix}{name}", said or "text", shown, about or _COMMON.get(name, _COMMON.get(ending, "")))


def _class_in(annotation: Any) -> type[BaseModel] | None:
    """The class of settings that an annotation names, alone or with what says more of it."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(str, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


@cache
def _source(kind: type) -> dict[str, tuple[str, str]]:
    """For every field of a class, what may stand there and the comment beside or above it, bases first."""
    found: dict[str, tuple[str, str]] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        try:
            text = inspect.getsource(base)
        except (OSError, TypeError):
            continue  # made while the program runs
        lines = text.splitlines()
        for node in ast.parse(text).body[0].body:  # type: ignore[attr-defined]
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                about = _comment(lines, node.lineno - 1, (node.end_lineno or node.lineno) - 1)
                found[node.target.id] = (_kind(node.annotation), about)
    return found


def _comment(lines: list[str], first: int, last: int) -> str:
    """The comment behind the lines of a field, or else the one above them."""
    behind = [line.split("  # ", 1)[1] for line in lines[first : last + 1] if "  # " in line and "noqa" not in line]
    if behind:
        return " ".join(behind).strip()
    above: list[str] = []
    while first > 0 and lines[first - 1].strip().startswith("# "):
        first -= 1
        above.insert(0, lines[first].strip()[2:])
    return " ".join(above)


_COMMON = {  # what is the same wherever it stands, and has no comment there
    "method": "a name of `tagseg recipes`, or the file of a method of your own",
    "backbone": "timm's name of a network, resnet38, resnet101_caffe, or mit_b0 to mit_b5",
    "seed": "of everything random",
    "epochs": "how often every photograph is seen",
    "batch_size": "photographs of a step",
    "learning_rate": "of the pretrained layers, where it is highest",
    "head_factor": "how much faster new layers learn than pretrained ones",
    "weight_decay": "how strongly weights are drawn to 0",
    "optimiser": "what moves the weights; poly decay, if the name says no other",
    "output_stride": "pixels from one cell of the features to the next; smaller is finer and slower",
    "scales": "sizes that are looked at; of a training window, from which to which",
    "flip": "look at mirror images too",
    "folder": "where the segments lie, NAME.png or NAME.json (docs/segments.md)",
    "crf": "published parameters, by name",
    "kind": "how superpixels are made",
    "count": "about how many there are in a photograph",
    "beta": "the power that affinities are taken to before the walk",
    "displacement": "learn where the centre of an object lies too, as published",
    "compat": "what the paper says, or what the published implementation does where that is something else",
    "fusion": "of an epoch's maps with the cumulative ones",
    "drop": "what is hidden of that which was found before: nothing, of the photograph, or of the features (OAA++)",
    "side": "of the square window or of the long side, pixels",
    "mirror": "mirror half of the views",
    "integral": "of the second network (OAA+), which is as the first one in what is not set for it",
    "crops": "how many small crops a photograph has",
    "colour_jitter": "change brightness, contrast, saturation and hue at random",
    "auxiliary_weight": "of the loss of the earlier block",
    "weight": "of this term of the loss",
    "high": "score above which a place is an object",
    "low": "score below which a place is background",
    "threshold": "map value above which a place counts",
    "pooling": "of class maps to scores of tags",
    "head": "DeepLab v2's or v1's, ToCo's for transformers, SegFormer's or Segmenter's",
}

_WORDS = {
    "Count": "a number, at least 1",
    "SidePixels": "pixels",
    "OutputStride": "8, 16, 32, auto or null",
    "PositiveFloat": "above 0",
    "NonNegativeFloat": "0 or above",
    "NonNegativeInt": "0, 1, 2, ...",
    "ScaleRange": "two numbers",
    "Share": "0 to 1",
    "Norms": "batch, statistics, frozen",
    "EarlyStride": "0, 2, 4, 8, all",
    "Statistics": "backbone, imagenet, coco",
    "Compat": "paper, official",
    "Pooling": "mean, top, lse",
    "HeadName": "aspp, largefov, tokens, segformer, segmenter",
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true, false",
    "None": "null",
    "tuple[PositiveFloat, ...]": "numbers above 0",
    "tuple[StepShare, ...]": "shares above 0, up to 1",
    "tuple[str, ...]": "names",
}


def _kind(node: ast.expr) -> str:
    """An annotation in words: what pydantic checks beside the type is left out."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Annotated":
        assert isinstance(node.slice, ast.Tuple)
        return _kind(node.slice.elts[0])
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return f"{_kind(node.left)} or {_kind(node.right)}"
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal":
        values = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return ", ".join(str(ast.literal_eval(value)) for value in values)
    text = ast.unparse(node)
    return _WORDS.get(text, text)
