"""One door to every layout, and the inspection of every file before anything is trained."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tagseg.data.dataset import Dataset, DrawnMask, MaskSource, Problem, Sample, read_mask
from tagseg.data.images import decode_image, filled_bits, is_bright, is_turned, numbers_in
from tagseg.data.readers import Tags, readers
from tagseg.errors import BadInput, brief, visible
from tagseg.files import read_json, write_json
from tagseg.labels import IGNORE

DEEP_MARKS = (b"\x89PNG", b"II*\x00", b"MM\x00*")  # how files begin that may have 16 bits
_LOOKED_AT = 20  # palettes, which a tool writes all alike
LONGEST_NAME = 240  # bytes of a part of a photograph's name; files of results add an ending of up to 12


def opened(data: Dataset | str | os.PathLike[str], tags: Tags = "xml") -> Dataset:
    """Returns the data set that is given, or that at a folder; see `read_dataset`."""
    return data if isinstance(data, Dataset) else read_dataset(Path(data), tags)


def read_dataset(root: str | Path, tags: Tags = "xml") -> Dataset:
    """Reads the data set at `root`, whatever layout of `tagseg.data.readers` it has.

    The lists are read, the photographs are not opened; see `inspect_files` for that.

    Args:
        root: the folder; for the plain layout see `tagseg.data.readers.folder`.
        tags: where the tags of a VOC devkit come from.

    Raises:
        BadInput: there is no such folder, or it has no layout that is known.
    """
    root = Path(root)
    if not root.is_dir():
        raise BadInput(f"{root}: there is no such folder; give the folder that holds the photographs and their tags.")
    return checked(next(reader for reader in readers() if reader.find(root) is not None).read(root, tags))


def checked(data: Dataset) -> Dataset:
    """Returns the data with every name that cannot be a file's, or that two photographs have, among the problems.

    Results are files of these names, also on disks that do not tell case or Unicode's forms apart. Of photographs with
    the same name the first stays, so that nothing is written twice.
    """
    problems = list(data.problems)
    seen: dict[str, Sample] = {}
    kept: dict[str, list[Sample]] = {"train": [], "val": []}
    for split in kept:
        for sample in getattr(data, split):
            name = sample.name
            other = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), sample)
            if other is not sample:
                if other.image == sample.image:
                    text = f"{sample.image}: this photograph is listed twice, perhaps for both splits; keep it once."
                elif other.name == name:
                    text = f"{sample.image}: its name '{name}' is that of {other.image} too; rename one of them."
                else:
                    text = f"{sample.image}: '{name}' differs from '{other.name}' by case only; rename one of them."
                problems.append(Problem(text, name))
                if other.name == name:
                    continue
            if visible(name) != name or "" in name.split("/") or ".." in name.split("/"):
                problems.append(
                    Problem(
                        f"{sample.image}: a name with '//', '..' or signs that are no letters; rename the file.", name
                    )
                )
            elif max(len(part.encode()) for part in name.split("/")) > LONGEST_NAME:
                problems.append(
                    Problem(
                        f"{sample.image}: the name is longer than {LONGEST_NAME} bytes, too long for results of this "
                        "name; rename the file.",
                        name,
                    )
                )
            kept[split].append(sample)
    whole = replace(data, train=tuple(kept["train"]), val=tuple(kept["val"]), problems=tuple(problems))
    return replace(whole, notes=(*data.notes, *_class_notes(whole)))


def _class_notes(data: Dataset) -> list[str]:
    """What to know of classes that no photograph for training has, and of an evaluation split without tags."""
    learnt = {tag for sample in data.train for tag in sample.tags}
    never = [name for number, name in enumerate(data.classes) if number not in learnt]
    found = []
    if never and learnt:
        shown = ", ".join(f"'{name}'" for name in never[:5]) + (" ..." if len(never) > 5 else "")
        found.append(f"{data.root}: no photograph for training has {shown}; a class without one is not learnt.")
    if data.val and data.classes and not any(sample.tags for sample in data.val):
        found.append(f"{data.root}: no photograph for evaluation (val) has a tag; tag scores of them say nothing.")
    return found


@dataclass(frozen=True)
class FileFact:
    """The facts that `inspect_files` learnt of one photograph and its mask.

    stamp: changes when one of the files is written.
    size: `(H, W)` of the photograph, pixels.
    digest: of the photograph's bytes.
    problems: what is wrong, a sentence each.
    values: the numbers in the mask, ascending.
    turned: whether the camera was turned, so that the pixels are turned too when they are read.
    bits: that the photograph's values fill, if it has 16; else 8.
    """

    stamp: str
    size: tuple[int, int]
    digest: str
    problems: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    turned: bool = False
    bits: int = 8


class FileFacts(dict[str, FileFact]):
    """The facts of every photograph, by its name."""

    def digest(self, samples: tuple[Sample, ...]) -> str:
        """Returns one digest of the contents and tags of `samples`, in order."""
        text = "\n".join(f"{s.name} {self[s.name].digest} {s.tags}" for s in samples)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def stamps_digest(self, samples: tuple[Sample, ...]) -> str:
        """Returns one digest of when the files of `samples` were written, in order."""
        text = "".join(self[s.name].stamp for s in samples)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def write(self, path: Path) -> None:
        """Writes the facts as JSON."""
        write_json(path, {name: asdict(fact) for name, fact in self.items()})

    @classmethod
    def read(cls, path: Path) -> FileFacts:
        """Reads facts that an earlier run wrote.

        There are none where the file is missing or damaged, for they are only a memory.
        """
        try:
            found = read_json(path)
            return cls(
                {
                    n: FileFact(
                        f["stamp"],
                        tuple(f["size"]),
                        f["digest"],
                        tuple(f["problems"]),
                        tuple(f["values"]),
                        f["turned"],
                        f["bits"],
                    )
                    for n, f in found.items()
                }
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()


def inspect_files(
    data: Dataset,
    known: FileFacts,
    advance: Callable[[int, str], None] = lambda done, remark: None,  # noqa: ARG005
    threads: int = 2,
) -> tuple[Dataset, FileFacts]:
    """Opens every photograph and mask once, to tell whether they are whole and fit, and what they contain.

    Files whose size and time are as in `known` (empty for none) are not opened again.

    Returns:
        the data set with the problems found added, and the facts by name.
    """
    facts = FileFacts()
    problems = list(data.problems)
    samples = data.samples

    def inspect(sample: Sample) -> FileFact:
        stamp = json.dumps([_stamp(sample.image), _stamp(sample.mask), sample.mask is not None])
        fact = known.get(sample.name)
        if fact is not None and fact.stamp == stamp and not fact.problems:
            return fact
        return _inspect(sample, stamp, len(data.classes))

    with ThreadPoolExecutor(threads) as pool:
        for done, (sample, fact) in enumerate(zip(samples, pool.map(inspect, samples), strict=True), start=1):
            facts[sample.name] = fact
            problems += [Problem(text, sample.name) for text in fact.problems]
            advance(done, "")
    problems += _mask_problems(data, facts)
    notes = [*data.notes, *_bit_notes(data, facts), *_mask_notes(data, facts), *_copies(data, facts)]
    if not data.train:
        problems.append(Problem(f"{data.root}: no photograph is left for training; add some to train.txt."))
    elif data.classes and not any(sample.tags for sample in data.train):
        problems.append(Problem(f"{data.root}: no photograph for training has a tag; there is nothing to learn."))
    return replace(data, problems=tuple(problems), notes=tuple(notes)), facts


def _inspect(sample: Sample, stamp: str, num_classes: int) -> FileFact:
    problems = []
    size, digest, turned, bits = (0, 0), "", False, 8
    try:
        content = sample.image.read_bytes()
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        height, width = decode_image(content, sample.image).shape[:2]
        turned = sample.mask is not None and is_turned(content)
        bits = filled_bits(content) if content[:4] in DEEP_MARKS else 8
        size = (height, width)
        if min(size) < 8:
            problems.append(f"{sample.image}: {width} x {height} pixels are too few to work with; remove it.")
    except FileNotFoundError:
        problems.append(f"{sample.image}: there is no such image; add the file or remove its entry.")
    except (OSError, ValueError) as error:  # a folder, or a path that cannot be one
        problems.append(f"{sample.image}: this image cannot be read ({brief(error)}); replace or remove it.")
    except BadInput as error:
        problems.append(str(error))
    values: tuple[int, ...] = ()
    if sample.mask is not None and not problems:
        found, values = _inspect_mask(sample, sample.mask, size, num_classes)
        problems += found
    return FileFact(stamp, size, digest, tuple(problems), values, turned, bits)


def _inspect_mask(
    sample: Sample, source: MaskSource, size: tuple[int, int], num_classes: int
) -> tuple[list[str], tuple[int, ...]]:
    """What is wrong with a mask, and the numbers in it."""
    drawn = not isinstance(source, Path)
    where = f"{sample.image}, its annotation" if drawn else str(source)
    mend = "correct the height and width that its entry says" if drawn else "save it at the photograph's size"
    try:
        mask = read_mask(source)
    except BadInput as error:
        return [str(error)], ()
    if mask.shape != size:
        height, width = mask.shape
        return [f"{where}: the mask has {width} x {height} pixels, its photograph {size[1]} x {size[0]}; {mend}."], ()
    values = numbers_in(mask)
    wrong = [value for value in values if value > num_classes and value != IGNORE]
    if wrong:
        return [
            f"{where}: the mask holds the value {wrong[0]}, but there are {num_classes} classes; "
            f"use 0 for background, 1 to {num_classes} for classes and {IGNORE} for ignore."
        ], ()
    return [], tuple(values)


def _mask_problems(data: Dataset, facts: FileFacts) -> list[Problem]:
    """What only all masks together tell: that 255 is meant for the object, or that the numbers count from 1."""
    masked = [s for s in data.samples if s.mask is not None and s.tags and facts[s.name].values]
    values = {value for sample in masked for value in facts[sample.name].values}
    if not masked:
        return []
    first = masked[0].mask if isinstance(masked[0].mask, Path) else masked[0].name
    if values <= {0, IGNORE} and IGNORE in values:
        what, word = ("1", "1") if len(data.classes) == 1 else ("the number of its class", "number")
        return [
            Problem(
                f"{first}: the masks hold nothing but 0 and {IGNORE}, and {IGNORE} means ignore; write {what} where "
                f"the object is, with numpy: mask[mask == {IGNORE}] = {word}."
            )
        ]
    agree = all({v - 1 for v in facts[s.name].values if v != IGNORE} <= set(s.tags) for s in masked)
    if 0 not in values and len(masked) > 1 and not agree:
        return [
            Problem(
                f"{first}: no mask holds 0, which is the background; if the numbers count from 1, write one less "
                "everywhere but at 255."
            )
        ]
    return []


def _bit_notes(data: Dataset, facts: FileFacts) -> list[str]:
    """What to know of photographs of 16 bits that are scaled by the bits that they fill."""
    fewer = [s for s in data.samples if 8 < facts[s.name].bits < 16]
    if not fewer:
        return []
    found = sorted({facts[s.name].bits for s in fewer})
    mixed = (
        "; each is scaled by its own, so that a dark one is brightened: save them with 8 bits" if len(found) > 1 else ""
    )
    return [
        f"{fewer[0].image}: 16 bits of which {' or '.join(map(str, found))} are used, by which it is read{mixed}. The "
        f"same in all: {len(fewer)}."
    ]


def _mask_notes(data: Dataset, facts: FileFacts) -> list[str]:
    """What to know of masks that do not hold what photographs are tagged with."""
    masked = [s for s in data.samples if s.mask is not None and facts[s.name].values]
    turned = [s for s in masked if facts[s.name].turned]
    found = []
    if turned:
        found.append(
            f"{turned[0].image}: the camera was turned, and so is the photograph when it is read, but not its mask; "
            f"see that they fit. The same in all: {len(turned)}."
        )
    two = [s.mask for s in masked if facts[s.name].values == (0, 1) and isinstance(s.mask, Path)]
    bright = next((path for path in two[:_LOOKED_AT] if is_bright(path)), None)
    if bright is not None:
        found.append(
            f"{bright}: the palette shows 0, the background, bright and the object dark; see that 1 is the object, in "
            "all masks."
        )
    others = {s.name: {v - 1 for v in facts[s.name].values if 0 < v <= len(data.classes)} for s in masked}
    denied = [s for s in masked if not others[s.name] <= set(s.tags)]
    empty = [s for s in masked if s.tags and not others[s.name]]
    if denied:
        sample = denied[0]
        classes = ", ".join(data.classes[c] for c in sorted(others[sample.name] - set(sample.tags)))
        tagged = ", ".join(data.tag_names(sample)) or "nothing"
        found.append(
            f"{_where(sample)}: the mask holds '{classes}', and the "
            f"photograph is tagged '{tagged}'; see that the numbers are in the order of the classes. The same in "
            f"{len(denied)} of {len(masked)} masks."
        )
    if empty:
        sample = empty[0]
        found.append(
            f"{_where(sample)}: the photograph is tagged, and its mask "
            f"holds no class ({', '.join(map(str, facts[sample.name].values))}). The same in {len(empty)} of "
            f"{len(masked)} masks."
        )
    return found


def _where(sample: Sample) -> Path:
    """The file of a photograph's mask; the photograph where the mask is drawn."""
    return sample.mask if isinstance(sample.mask, Path) else sample.image


def _copies(data: Dataset, facts: FileFacts) -> list[str]:
    """What to know of photographs that are the same file under two names: with other tags, or in both splits."""
    seen: dict[str, Sample] = {}
    evaluated = {sample.name for sample in data.val}
    other_tags, both = [], []
    for sample in data.samples:
        digest = facts[sample.name].digest
        other = seen.setdefault(digest, sample) if digest else sample
        if other.tags != sample.tags:
            other_tags.append((sample, other))
        if sample.name in evaluated and other.name not in evaluated:
            both.append((sample, other))
    return [
        f"{pairs[0][0].image}: the same photograph as {pairs[0][1].image}, {what}. Such pairs in all: {len(pairs)}."
        for pairs, what in (
            (other_tags, "with other tags; better keep it once, with all its tags, in labels.csv"),
            (both, "for evaluation and for training, so that numbers of it say little; keep it in one split"),
        )
        if pairs
    ]


def _stamp(source: MaskSource | None) -> list[int]:
    files = source.files if isinstance(source, DrawnMask) else (source,)
    found: list[int] = []
    for file in files:
        if isinstance(file, Path) and file.exists():
            status = file.stat()
            found += [status.st_size, status.st_mtime_ns]
    return found
