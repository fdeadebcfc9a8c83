"""What every reader returns: photographs with tags, in two splits, and everything that is wrong with them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from tagseg.data.images import read_grey, read_index_png
from tagseg.errors import BadInput, visible
from tagseg.labels import MAX_CLASSES

Item = TypeVar("Item")
_MISSING = ("", "none", "nan", "null", "na", "n/a", "-", "[]", "unlabeled", "unlabelled")
MaskSource = Path | Callable[[], np.ndarray]  # a palette PNG, or something that draws the mask when asked


@dataclass(frozen=True, slots=True)
class DrawnMask:
    """A mask that is drawn when it is called for: `(H, W)` uint8.

    `files` are all that it comes from, often with the masks of other photographs, and where classes are named; they
    tell whether the mask has changed.
    """

    draw: Callable[[], np.ndarray]
    files: tuple[Path, ...]

    def __call__(self) -> np.ndarray:
        return self.draw()


@dataclass(frozen=True, slots=True)
class Box:
    """One true object: its 0-based class and its edges in pixels, x1 and y1 exclusive."""

    tag: int
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One photograph with its tags.

    `name` is unique, has no suffix and may hold slashes; `tags` are 0-based class numbers. Masks and boxes are for
    measuring only.
    """

    name: str
    image: Path
    tags: tuple[int, ...]
    mask: MaskSource | None = None
    saliency: Path | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a data set.

    `sample` is the photograph that `--skip-bad` would leave out, if that cures it.
    """

    text: str
    sample: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", visible(self.text))


@dataclass(frozen=True)
class Dataset:
    """Photographs with tags, in two splits, what is wrong with them (`problems`), and what a person should know
    (`notes`).

    Masks are for measuring only: nothing that trains may read them.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...] = ()
    problems: tuple[Problem, ...] = field(default=())
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "notes", tuple(map(visible, self.notes)))

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Returns the photographs of both splits, those for training first."""
        return self.train + self.val

    def tag_names(self, sample: Sample) -> list[str]:
        """Returns the names of a photograph's tags."""
        return [self.classes[c] for c in sample.tags]

    def without(self, names: set[str]) -> Dataset:
        """Returns the data less the photographs called `names`; the problems stay, for the record."""
        keep = lambda samples: tuple(s for s in samples if s.name not in names)  # noqa: E731
        return replace(self, train=keep(self.train), val=keep(self.val))


@dataclass(frozen=True)
class MaskFolder:
    """A folder of masks, which tells where the mask that was made for a photograph lies."""

    folder: Path

    def __call__(self, sample: Sample) -> Path:
        return self.folder / f"{sample.name}.png"


def multi_hot(tags: tuple[int, ...], num_classes: int) -> np.ndarray:
    """Returns the vector `(C,)` float32 with 1 at every tag."""
    vector = np.zeros(num_classes, dtype=np.float32)
    vector[list(tags)] = 1
    return vector


def at_even_steps(items: Sequence[Item], count: int) -> list[Item]:
    """Returns `count` of the items, or all where there are fewer, at even steps from the first to the last."""
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def read_mask(source: MaskSource) -> np.ndarray:
    """Reads a ground-truth mask as `(H, W)` class indices: 0 background, class c at c + 1, 255 ignore."""
    return read_index_png(source) if isinstance(source, Path) else source()


def read_saliency(sample: Sample, size: tuple[int, int]) -> np.ndarray:
    """Reads the `(H, W)` uint8 saliency of a photograph of that size; a map of another size is resized.

    Raises:
        BadInput: it has none, or one that cannot be read or has other proportions.
    """
    if sample.saliency is None:
        raise BadInput(f"{sample.name}: there is no saliency map; add saliency/{sample.name}.png, or have it made.")
    saliency = read_grey(sample.saliency)
    height, width = saliency.shape
    if abs(height * size[1] - width * size[0]) > max(height * width, size[0] * size[1]) ** 0.5 * 2:
        raise BadInput(
            f"{sample.saliency}: the saliency map has {width} x {height} pixels, its photograph {size[1]} x {size[0]}; "
            "give it the photograph's proportions."
        )
    if saliency.shape != size:
        saliency = cv2.resize(saliency, size[::-1], interpolation=cv2.INTER_LINEAR)
    return saliency


def check_classes(classes: list[str], where: Path | str) -> list[Problem]:
    """Returns the problems of a class list: no class, too many, one twice, two that differ by case only, or one that
    is called as what is no class."""
    problems = []
    if not classes:
        problems.append(Problem(f"{where}: no class is named; give at least one photograph a tag."))
    if len(classes) > MAX_CLASSES:
        problems.append(Problem(f"{where}: {len(classes)} classes do not fit an 8-bit mask ({MAX_CLASSES} at most)."))
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(_folded(name), name)
        if other != name:
            how = "case" if other.casefold() == name.casefold() else "spaces, or by signs that look alike,"
            problems.append(
                Problem(f"{where}: the classes '{other}' and '{name}' differ by {how} only; use one spelling.")
            )

        if any(ord(sign) < 32 for sign in name):
            problems.append(Problem(f"{where}: the class {name!r} has control characters; correct it."))
    for name in classes:
        if name.strip("_").casefold() in ("background", "ignore"):
            problems.append(
                Problem(f"{where}: '{name}' is what has no class; leave it out, or put it first in classes.txt.")
            )
    for name in sorted({c for c in classes if classes.count(c) > 1}):
        problems.append(Problem(f"{where}: the class '{name}' is listed twice; remove one line."))
    return problems


def _folded(name: str) -> str:
    """A name without case, and without the letters of other widths that look like it."""
    narrow = (unicodedata.normalize("NFKC", sign) if "\uff00" <= sign <= "\uffef" else sign for sign in name)
    return " ".join("".join(narrow).casefold().split())


def missing_labels(classes: list[str], where: Path | str) -> list[Problem]:
    """Returns the problems of class names that were taken from labels and mean that there is none."""
    return [
        Problem(f"{where}: '{name}' means that there is no label; leave it out, or list the class in classes.txt.")
        for name in classes
        if name.strip("<>").casefold() in _MISSING
    ]


def raise_problems(problems: tuple[Problem, ...] | list[Problem], root: Path) -> None:
    """Raises the first problem as `BadInput`, with the count of the others; does nothing when there is none."""
    if not problems:
        return
    more = len(problems) - 1
    tail = f" ({more} more: 'tagseg check {root}' lists all)" if more else ""
    raise BadInput(problems[0].text + tail)
