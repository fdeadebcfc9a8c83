"""Label Studio: a task for each photograph with a brush stroke for each class or object, to be corrected there.

The run lengths are those of rle-pack (thi.ng), which Label Studio's brush keeps: a row of bits with 32 for the number
of bytes, 5 for the size of one, four times 4 for sizes of lengths, and then lengths and values in turn. A pixel is four
bytes, of which the last is its opacity.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from tagseg.data.dataset import DrawnMask
from tagseg.data.walking import composed
from tagseg.errors import BadInput, brief
from tagseg.export.mask_formats import (
    ExportOptions,
    LabelledPhotograph,
    MaskFormat,
    MaskSet,
    add_mask,
    colour_of,
    label_name,
    label_value,
    named_classes,
    names_and_unknown,
    photo_of,
)
from tagseg.export.shapes import objects
from tagseg.files import write_json, write_text
from tagseg.labels import IGNORE
from tagseg.run_lengths import runs_of

TASKS, CONFIG = "tasks.json", "config.xml"
_SIZES = (3, 4, 8, 16)  # bits of a length; four of them may be chosen in a row of bits
_SHAPES = ("polygonlabels", "rectanglelabels", "ellipselabels", "keypointlabels", "vectorlabels", "bitmasklabels")
_LONGEST = 1 << _SIZES[-1]


def write(
    folder: Path, photographs: Iterable[LabelledPhotograph], classes: Sequence[str], options: ExportOptions
) -> Path:
    """Writes `tasks.json`, predictions to be corrected, and `config.xml`, the project's labelling interface.

    A task finds its photograph at the options' prefix and the path of its file.
    """
    tasks, unknown = [], False
    for item in photographs:
        height, width = item.mask.shape
        strokes = []
        for number, (value, where) in enumerate(objects(item.mask, options.instances), start=1):
            unknown = unknown or value == IGNORE
            strokes.append(
                {
                    "id": f"{number}",
                    "from_name": "tag",
                    "to_name": "image",
                    "type": "brushlabels",
                    "original_width": width,
                    "original_height": height,
                    "image_rotation": 0,
                    "value": {"format": "rle", "rle": packed(where), "brushlabels": [label_name(value, classes)]},
                }
            )
        address = options.prefix + quote(photo_of(item).resolve().as_posix().lstrip("/"))
        data = {"image": address, "name": item.name, "split": item.split, "height": height, "width": width}
        tasks.append({"data": data, "predictions": [{"model_version": "tagseg", "result": strokes}]})
    labels = "".join(
        f"\n    <Label value={quoteattr(name)} background={quoteattr(colour_of(value))}/>"
        for value, name in enumerate(names_and_unknown(classes, unknown), start=1)
    )
    write_text(
        folder / CONFIG,
        f'<View>\n  <Image name="image" value="$image" zoom="true"/>\n  <BrushLabels name="tag" toName="image">{labels}'
        "\n  </BrushLabels>\n</View>\n",
    )
    write_json(folder / TASKS, tasks, indent=None)
    return folder / TASKS


def packed(where: np.ndarray) -> list[int]:
    """Returns the run lengths of a `(H, W)` bool as the bytes of rle-pack."""
    bits = [_bits(4 * where.size, 32), _bits(7, 5), *(_bits(size - 1, 4) for size in _SIZES)]
    full = False
    for run in runs_of(where.T):  # row by row
        left = 4 * run
        while left:
            length = min(left, _LONGEST)
            which = next(n for n, size in enumerate(_SIZES) if length <= 1 << size)
            bits += ["1", _bits(which, 2), _bits(length - 1, _SIZES[which]), "1" * 8 if full else "0" * 8]
            left -= length
        full = not full
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _bits(value: int, count: int) -> str:
    return f"{value:0{count}b}"


def unpacked(values: list[int], size: tuple[int, int]) -> np.ndarray:
    """Returns the `(H, W)` bool of bytes of rle-pack: where opacity is more than half.

    Raises:
        ValueError: they are of another number of pixels.
    """
    bits = "".join(f"{value:08b}" for value in values)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word, sizes = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)]
    if total != 4 * size[0] * size[1] or word != 8:
        raise ValueError(f"run lengths of {total / 4:g} pixels for {size[1]} x {size[0]}")
    parts: list[np.ndarray] = []
    done = 0
    while done < total:
        same = take(1)
        length = take(sizes[take(2)]) + 1
        if same:
            parts.append(np.full(length, take(8), dtype=np.uint8))
        else:
            parts.append(np.array([take(8) for _ in range(length)], dtype=np.uint8))
        done += length
    return np.concatenate(parts)[:total].reshape(*size, 4)[..., 3] > 127


def holds(path: Path) -> bool:
    """Returns whether this is a list of Label Studio's tasks, or a folder with `tasks.json`."""
    path = path / TASKS if path.is_dir() else path
    if not path.is_file() or path.suffix.lower() != ".json":
        return False
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(said, list) and all(isinstance(task, dict) and "data" in task for task in said) and bool(said)


def read(path: Path) -> MaskSet:
    """Reads the strokes of tasks, as `write` or Label Studio's export (JSON) has them.

    What a person has drawn counts, the last time; where nobody has, the prediction. Later strokes lie on top. Classes
    are in the order of `config.xml` beside the file, or else of the alphabet.

    Raises:
        BadInput: a task is damaged.
    """
    path = path / TASKS if path.is_dir() else path
    found: list[tuple[str, _Strokes]] = []
    for number, task in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
        try:
            strokes = _Strokes.of(task)
            if strokes.size is not None:
                found.append((_name(task["data"]), strokes))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise BadInput(f"{path}: task {number} is not as Label Studio writes it ({brief(error)}).") from error
    used = sorted({label for _, strokes in found for label, _ in strokes.drawn})
    classes = named_classes(_configured(path.parent / CONFIG) or used, path)
    masks: dict[str, DrawnMask] = {}
    for name, strokes in found:
        add_mask(masks, name, partial(_draw, path, name, strokes, classes), path, path.parent / CONFIG)
    return MaskSet(classes, masks)


@dataclass(frozen=True)
class _Strokes:
    """What is drawn in a photograph: its `(H, W)`, None where nobody knows it, and labels with bytes of rle-pack."""

    size: tuple[int, int] | None
    drawn: list[tuple[str, list[int]]]

    @staticmethod
    def of(task: dict[str, Any]) -> _Strokes:
        people = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
        listed = people or task.get("predictions") or []
        result = listed[-1]["result"] if listed else []
        strange = next((r["type"] for r in result if str(r.get("type")) in _SHAPES), None)
        if strange is not None:
            raise ValueError(f"'{strange}' is no brush, and no mask can be made of it")
        strokes = [r for r in result if r.get("type") == "brushlabels"]
        drawn = [(composed(s["value"]["brushlabels"][0]), s["value"]["rle"]) for s in strokes]
        if strokes:
            return _Strokes((int(strokes[0]["original_height"]), int(strokes[0]["original_width"])), drawn)
        known = "height" in task["data"] and "width" in task["data"]  # nothing but background
        return _Strokes((int(task["data"]["height"]), int(task["data"]["width"])) if known else None, drawn)


def _name(data: dict[str, Any]) -> str:
    """The name of a task's photograph: what `write` has called it, or the stem of its file."""
    if isinstance(data.get("name"), str):
        return composed(data["name"])
    address = urlsplit(str(data["image"]))
    path = parse_qs(address.query).get("d", [address.path])[0]
    return composed(PurePosixPath(path).stem)


def _configured(config: Path) -> list[str]:
    try:
        return [str(label.get("value")) for label in ElementTree.parse(config).getroot().iter("Label")]
    except (OSError, ElementTree.ParseError):
        return []


def _draw(path: Path, name: str, strokes: _Strokes, classes: tuple[str, ...]) -> np.ndarray:
    size = strokes.size or (0, 0)
    mask = np.zeros(size, dtype=np.uint8)
    for label, runs in strokes.drawn:
        try:
            mask[unpacked(runs, size)] = label_value(label, classes)
        except (ValueError, TypeError, IndexError) as error:
            raise BadInput(f"{path}: a stroke of {name} cannot be drawn ({brief(error)}).") from error
    return mask


FORMAT = MaskFormat("labelstudio", "Label Studio, for correcting", write, holds, read)
