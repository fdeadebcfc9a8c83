"""Folders that are classes, and those that only look like them.

DATA/CLASS/** or DATA/images/CLASS/**, with the splits above the classes (DATA/train/CLASS/**) or below them
(DATA/CLASS/train/*). Whatever looks like a layout of another tool is refused with the reason, never read as classes.
"""

from __future__ import annotations

import re
from pathlib import Path

from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.tables import SPLITS, Row, without_suffix
from tagseg.errors import BadInput

_NO_CLASS = re.compile(
    r"(.*[_ -])?(train(ing)?|val(id(ation|ate)?)?|test(ing)?|eval(uation)?|predict(ions?)?|fold|split)"
    r"([_ -]?(set|images?|imgs?|data|masks?|labels?|\d+))*"
    r"|images?|imgs?|jpegimages|pictures|masks?|labels?|annotations?|gt|gtfine|leftimg8bit|ground_?truth|ann|ds\d*"
    r"|segmentations?|predictions?|explained|located|decomposed|saliency",
    re.IGNORECASE,
)
_NEVER_CLASS = re.compile(r"images|masks|labels|annotations|predictions|explained|located|decomposed", re.IGNORECASE)
# files of other tools whose layouts are not read: what they mean, and what would mend it
FOREIGN = {
    "data.yml": "YOLO's layout, which has no list of tags; export it as COCO",
    "data.yaml": "YOLO's layout, which has no list of tags; export it as COCO",
    "dataset.yaml": "YOLO's layout, which has no list of tags; export it as COCO",
    "_darknet.labels": "Darknet's layout; export it as COCO",
    "dataset_info.json": "a data set of Hugging Face on disk; open it in Python and give it to tagseg.read_samples",
    "annotations.xml": "CVAT's layout; export it as COCO",
    "via_project.json": "VIA's layout; export it as COCO",
}


def refuse_beside(root: Path) -> None:
    """Annotations beside photographs, which mean one of many layouts that are not read."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    suspect = len(folders) == 1 or all(_NO_CLASS.fullmatch(folder.name) for folder in folders)
    for folder in (root, *folders):
        if (folder / "images").is_dir() and (folder / "labels").is_dir():
            raise BadInput(
                f"{folder / 'labels'}: annotations beside images/ are YOLO's layout, which has no list of tags; export "
                "it as COCO, or write images/ and labels.csv."
            )
        names = {p.name for p in folder.iterdir()} if suspect and folder != root else set()
        stems = {Path(name).stem for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES}
        beside = sorted(
            name
            for name in names
            if (Path(name).suffix.lower() in (".xml", ".json", ".txt") and Path(name).stem in stems)
            or name in ("_classes.csv", "_annotations.csv", "_annotations.txt")
        )
        if beside:
            raise BadInput(
                f"{folder / beside[0]}: an annotation beside photographs, of a layout that is not read; export it as "
                "COCO, or write images/ and labels.csv."
            )


def _refuse_names(base: Path, photos: dict[str, Path]) -> None:
    """Folders that are plainly not classes: a whole data set one folder down, splits, and folders of masks."""
    tops = sorted({name.split("/")[0] for name in photos})
    deep = {top for top in tops if any(name.startswith(f"{top}/") and name.count("/") > 1 for name in photos)}
    if len(tops) == 1 and (deep or (base / tops[0] / "labels.csv").is_file()):
        raise BadInput(
            f"{base}: all photographs lie in {tops[0]}/, which is no class but holds folders or lists of its own; give "
            f"{base / tops[0]}, or write images/ and labels.csv."
        )
    odd = [top for top in tops if _NO_CLASS.fullmatch(top)]
    strange = odd if len(odd) == len(tops) else [top for top in odd if _NEVER_CLASS.fullmatch(top)]
    alone = len(tops) == 1 and tops[0].lower() in SPLITS
    if strange and not alone:
        raise BadInput(
            f"{base / strange[0]}: this name is no class's; put photographs into one folder for each class, masks into "
            "masks/, or write images/ and labels.csv."
        )


def refuse_foreign(root: Path) -> None:
    """Layouts of other tools must never be read as folders of classes."""
    for name, what in FOREIGN.items():
        if (root / name).is_file():
            raise BadInput(f"{root / name}: this is {what}, or write images/ and labels.csv.")
    years = [p.name for p in sorted(root.iterdir()) if p.is_dir() and p.name[:-4] in SPLITS and p.name[-4:].isdigit()]
    if years:
        raise BadInput(
            f"{root}: {years[0]}/ is a folder of COCO, but annotations/ has no instances_{years[0]}.json; add it, or "
            "write images/ and labels.csv."
        )
    if (root / "ImageSets").is_dir() or (root / "JPEGImages").is_dir():
        raise BadInput(f"{root}: this looks like a VOC devkit, which needs both JPEGImages/ and ImageSets/; add them.")


def by_class_folder(base: Path, photos: dict[str, Path]) -> tuple[list[Row], dict[str, str], list[str]]:
    """Rows for photographs in class folders, of each its split where splits lie above the classes, and notes.

    What belongs to the test split is taken out of `photos`.
    """
    tops = {name.split("/")[0] for name in photos}
    known = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
    if below := _splits_below(photos):
        rows = [
            Row(0, name, _of_folder(name.split("/")[0])) for name in photos if below[without_suffix(name)] != "test"
        ]
        for name in [n for n in photos if below[without_suffix(n)] == "test"]:
            del photos[name]
        return rows, below, [f"{base}: each class holds folders of splits, which were read as such."]
    if "train" not in known.values() or len(known) < len(tops):
        mixed = sorted(known)
        deep = any(name.split("/")[0] in known and name.count("/") > 1 for name in photos)
        if len(known) > 1 or (deep and len(tops) > 1):  # one alone may be a class: photographs of trains
            raise BadInput(
                f"{base}: {' and '.join(f'{name}/' for name in mixed[:2])} look like splits, but "
                + ("there is no train/" if len(known) == len(tops) else f"{min(tops - set(known))}/ is beside them")
                + "; put class folders into train/ and val/, or write images/ and labels.csv."
            )
        _refuse_names(base, photos)
        return [Row(0, name, _of_folder(name.split("/")[0])) for name in photos], {}, []
    if len(tops) == 1 and all(name.count("/") == 1 for name in photos):
        return [Row(0, name, _of_folder(name.split("/")[0])) for name in photos], {}, []  # photographs of trains alone
    rows, split_of, notes = [], {}, []
    for name in list(photos):
        top, *rest = name.split("/")
        if known[top] == "test":
            del photos[name]
            continue
        if len(rest) < 2:
            raise BadInput(
                f"{photos[name]}: {top}/ is a split, and this photograph lies in no class folder in it; make one "
                "folder for each class there, or write images/ and labels.csv."
            )
        rows.append(Row(0, name, _of_folder(rest[0])))
        split_of[without_suffix(name)] = known[top]
    tests = [top for top, split in known.items() if split == "test"]
    if tests:
        notes.append(f"{base / tests[0]}: a test split, which nothing here uses, and left out.")
    return rows, split_of, notes


def _splits_below(photos: dict[str, Path]) -> dict[str, str]:
    """The split of every photograph where each class folder holds nothing but folders of splits; else none."""
    found = {}
    for name in photos:
        parts = name.split("/")
        if len(parts) != 3 or parts[1].lower() not in SPLITS or parts[0].lower() in SPLITS:
            return {}
        found[without_suffix(name)] = SPLITS[parts[1].lower()]
    return found if "train" in found.values() and len({name.split("/")[0] for name in photos}) > 1 else {}


def _of_folder(name: str) -> list[str]:
    return [] if name.strip("_").lower() == "background" else [name]


def split_folders(photos: dict[str, Path]) -> dict[str, str]:
    """The split of every photograph, if all lie in folders of splits."""
    found = {without_suffix(name): SPLITS.get(name.partition("/")[0].lower(), "") for name in photos if "/" in name}
    return found if len(found) == len(photos) and all(found.values()) and "train" in found.values() else {}
