"""Folders that are classes, and those that only look like them.

DATA/CLASS/** or DATA/images/CLASS/**, with the splits above the classes (DATA/train/CLASS/**) or below them
(DATA/CLASS/train/*). Whatever looks like a layout of another tool is refused with the reason, never read as classes.
"""

from __future__ import annotations

import re
from pathlib import Path

from tagseg.data.images import IMAGE_SUFFIXES
from tagseg.data.tables import SPLITS, Row, is_background, label_text, without_suffix
from tagseg.errors import BadInput

_WHOLE = "train(ing)?|val(id(ation|ate)?)?|test(ing)?|eval(uation)?|predict(ions?)?"
_NO_CLASS = re.compile(
    rf"(.*[_ -])?({_WHOLE})([_ -]?(set|images?|imgs?|data|masks?|labels?))+|({_WHOLE})\d*|(fold|split)[_ -]?\d+"
    r"|images?|imgs?|jpe?gs?|pngs?|photos?|pictures|data|dataset|jpegimages|masks?|labels?|annotations?|gt|gtfine"
    r"|leftimg8bit|ground_?truth|ann|segmentations?|explained|located|decomposed|saliency",
    re.IGNORECASE,
)
_NEVER_CLASS = re.compile(
    r"images|masks|annotations|explained|decomposed|gt|val|validation|test|testing"
    rf"|(.*[_ -])?({_WHOLE})[_ -]?(set|images?|imgs?|data|masks?|labels?)",
    re.IGNORECASE,
)
MASK_ENDINGS = ("_mask", "-mask", ".mask", "_label", "_gt")  # of masks' names, which begin as the photographs'
_OF_MASK = re.compile(rf"({'|'.join(map(re.escape, (*MASK_ENDINGS, '_seg')))})(_\d+)?$")
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


def refuse_foreign(root: Path) -> None:
    """Refuses layouts of other tools, which must never be read as folders of classes.

    Raises:
        BadInput: with the tool's name and what would mend it.
    """
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    parts = [p for p in (root, *folders) if (p / "images").is_dir()]
    for name, what in FOREIGN.items():
        here = parts or not name.startswith("dataset") or any(root.glob("*.arrow")) or any(root.glob("*/*.arrow"))
        if (root / name).is_file() and here:
            raise BadInput(f"{root / name}: this is {what}, or write images/ and labels.csv.")
    years = [p.name for p in folders if p.name[:-4] in SPLITS and p.name[-4:].isdigit()]
    if years:
        raise BadInput(
            f"{root}: {years[0]}/ is a folder of COCO, but annotations/ has no instances_{years[0]}.json; add it, or "
            "write images/ and labels.csv."
        )
    if (root / "ImageSets").is_dir() or (root / "JPEGImages").is_dir():
        raise BadInput(f"{root}: this looks like a VOC devkit, which needs both JPEGImages/ and ImageSets/; add them.")
    for part in parts:
        text = next((part / "labels").rglob("*.txt"), None) if (part / "labels").is_dir() else None
        if text is not None:
            raise BadInput(
                f"{text}: labels/ beside images/ is YOLO's layout, which has no list of tags; export it as COCO, or "
                "write images/ and labels.csv."
            )
    if all(_NO_CLASS.fullmatch(folder.name) for folder in folders):
        for folder in folders:
            _refuse_beside(folder)


def _refuse_beside(folder: Path) -> None:
    """Annotations beside photographs of a folder that is called like a split: one of many layouts."""
    names = {p.name for p in folder.iterdir()}
    stems = {Path(name).stem for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES}
    beside = sorted(
        name
        for name in names
        if (Path(name).suffix.lower() in (".xml", ".json", ".txt") and Path(name).stem in stems)
        or name in ("_classes.csv", "_annotations.csv", "_annotations.txt")
    )
    if beside:
        raise BadInput(
            f"{folder / beside[0]}: an annotation beside photographs, of a layout that is not read; export it as COCO, "
            "or write images/ and labels.csv."
        )


def by_class_folder(base: Path, photos: dict[str, Path]) -> tuple[list[Row], dict[str, str], list[str]]:
    """Returns rows for photographs in class folders, the split of each where folders tell it, and notes.

    What belongs to the test split, and masks beside their photographs, are taken out of `photos`.

    Raises:
        BadInput: the folders are plainly not classes.
    """
    notes = _leave_out_masks(base, photos)
    tops = {name.split("/")[0] for name in photos}
    known = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
    if _split_above(base, photos, known):
        class_of, split_of = _below_splits(photos, known)
    elif _split_below(base, photos):
        class_of = {name: name.split("/")[0] for name in photos}
        split_of = {name: SPLITS[name.split("/")[1].lower()] for name in photos}
        notes.append(f"{base}: each class holds folders of splits, which were read as such.")
    else:
        class_of, split_of = {name: name.split("/")[0] for name in photos}, {}
    _refuse_names(base, photos, class_of, bool(split_of))
    tests = [name for name in photos if split_of.get(name) == "test"]
    if tests:
        notes.append(f"{photos[tests[0]].parent}: a test split, which nothing here uses, and left out.")
    for name in tests:
        del photos[name]
    rows = [Row(0, name, _of_folder(class_of[name])) for name in photos]
    return rows, {without_suffix(name): split for name, split in split_of.items()}, notes


def _split_above(base: Path, photos: dict[str, Path], known: dict[str, str]) -> bool:
    """Whether the outermost folders are splits."""
    tops = {name.split("/")[0] for name in photos}
    nested = {name.split("/")[0] for name in photos if name.count("/") > 1}
    direct = {name.split("/")[0] for name in photos if name.count("/") == 1}
    beside = sorted(tops - set(known))
    if not known or (len(tops) == 1 and not nested):
        return False  # photographs of trains alone
    if not beside and "train" in known.values():
        return True
    below = {name.split("/")[1] for name in photos if name.split("/")[0] in known and name.count("/") > 1}
    plainly = nested & set(known) and not direct & set(known) and not nested & set(beside) and len(below) > 1
    literal = {top.lower() for top in known} & {"train", "training"} and len(set(known.values())) > 1
    if (beside and not plainly and not literal) or (not beside and len(known) == 1):
        return False  # a class that is called like a split
    words = " and ".join(f"{name}/" for name in sorted(known)[:2])
    raise BadInput(
        f"{base}: {words} {'look like splits' if len(known) > 1 else 'looks like a split'}, but "
        + (f"{beside[0]}/ is beside them" if beside else "there is no train/")
        + "; put class folders into train/ and val/, or write images/ and labels.csv."
    )


def _below_splits(photos: dict[str, Path], known: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The class and the split of every photograph, by its name."""
    class_of, split_of = {}, {}
    for name, path in photos.items():
        top, *rest = name.split("/")
        if len(rest) < 2 and known[top] != "test":
            raise BadInput(
                f"{path}: {top}/ is a split, and this photograph lies in no class folder in it; make one folder for "
                "each class there, or write images/ and labels.csv."
            )
        class_of[name], split_of[name] = rest[0], known[top]
    return class_of, split_of


def _split_below(base: Path, photos: dict[str, Path]) -> bool:
    """Whether each class folder holds folders of splits, and nothing else."""
    second = {name: name.split("/")[1].lower() if name.count("/") > 1 else "" for name in photos}
    splits = [name for name, part in second.items() if part in SPLITS]
    if len({SPLITS[second[name]] for name in splits}) < 2 or "train" not in {SPLITS[second[name]] for name in splits}:
        return False
    loose = [name for name in photos if second[name] not in SPLITS]
    if loose:
        raise BadInput(
            f"{photos[loose[0]]}: this photograph lies in no split, and {photos[splits[0]].parent} is one; put all "
            f"into splits, or write images/ and labels.csv in {base}."
        )
    return True


def _leave_out_masks(base: Path, photos: dict[str, Path]) -> list[str]:
    """Takes `NAME_mask.png` beside `NAME.png` out of the photographs."""
    stem_of = {name: without_suffix(name) for name in photos}
    stems = set(stem_of.values())
    masks = [
        name for name, stem in stem_of.items() if (base_stem := _OF_MASK.sub("", stem)) != stem and base_stem in stems
    ]
    for name in masks:
        del photos[name]
    if not masks:
        return []
    where = base / masks[0]
    return [f"{where}: a mask beside its photograph, left out; masks are read from masks/: {len(masks)}."]


def _refuse_names(base: Path, photos: dict[str, Path], class_of: dict[str, str], split: bool) -> None:
    """Folders that are plainly not classes: a whole data set one folder down, splits, and folders of masks."""
    classes = sorted(set(class_of.values()))
    depth = 2 if split else 1
    deep = any(name.count("/") > depth for name in photos)
    where = base if not split else photos[next(iter(photos))].parents[0]
    if len(classes) == 1 and (deep or (base / classes[0] / "labels.csv").is_file()):
        raise BadInput(
            f"{base}: all photographs lie in folders below {classes[0]}/; if that is one class, put them into it "
            f"directly, and if it holds a data set, give {base / classes[0]}; or write images/ and labels.csv."
        )
    inside = sorted({part.lower() for name in photos for part in name.split("/")[1:-1]} & {"masks", "mask"})
    if inside:
        raise BadInput(
            f"{base}: {inside[0]}/ lies below a class and is none; put masks into {base / 'masks'} under the "
            "photographs' names, or write images/ and labels.csv."
        )
    odd = [name for name in classes if _NO_CLASS.fullmatch(name) and name.lower() not in ("train", "training")]
    if all(_NO_CLASS.fullmatch(name) for name in classes) and len(classes) + split > 1:
        strange = classes
    elif all(_NO_CLASS.fullmatch(name) for name in classes):
        strange = odd
    else:
        strange = [name for name in odd if _NEVER_CLASS.fullmatch(name)]
    if strange or len({re.sub(_WHOLE, "", name.lower()) for name in classes}) < len(classes) == len(
        _of_splits(classes)
    ):
        name = (strange or classes)[0]
        raise BadInput(
            f"{where if split else base / name}: '{name}' is no class's name; put photographs into one folder for each "
            "class, masks into masks/, or write images/ and labels.csv."
        )


def _of_splits(names: list[str]) -> list[str]:
    """The names that hold the word of a split, such as `seg_train`."""
    return [name for name in names if re.search(rf"(^|[_ -])({_WHOLE})([_ -]|$)", name.lower())]


def _of_folder(name: str) -> list[str]:
    return [] if is_background(name) else [label_text(name)]


def split_folders(photos: dict[str, Path]) -> dict[str, str]:
    """Returns the split of every photograph by its name without suffix, if all lie in folders of splits."""
    found = {without_suffix(name): SPLITS.get(name.partition("/")[0].lower(), "") for name in photos if "/" in name}
    return found if len(found) == len(photos) and all(found.values()) and "train" in found.values() else {}
