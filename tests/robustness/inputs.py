"""Bad input of every kind: whatever is given, one clear sentence says what is wrong with it, and where.

    python -m tests.robustness.inputs [--show]

Every case makes a small set of files, or odd arguments, and hands them to the library. The answer must be one sentence
that names the thing (each case says how), as an error or in what `check` finds. Prints tried / clear / wrong, and every
wrong one (`--show`: all sentences); exits with 1 if there is one.
"""

import argparse
import io
import json
import os
import pickle
import struct
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tagseg
from tagseg.commands.check import check
from tagseg.data.images import read_image
from tagseg.data.synthetic import make_synthetic
from tagseg.errors import BadInput
from tests.conftest import TINY
from tests.data.trees import folder, mask, photo

Answer = Iterable[str] | None
Case = tuple[str, Callable[[Path], Answer]]  # what the sentence must name, and what makes the input and hands it over
CASES: dict[str, Case] = {}


def case(name: str, names: str) -> Callable[[Callable[[Path], Answer]], Callable[[Path], Answer]]:
    """Adds a case; `names` must be in the sentence."""

    def add(made: Callable[[Path], Answer]) -> Callable[[Path], Answer]:
        assert name not in CASES
        CASES[name] = names, made
        return made

    return add


def checked(root: Path) -> list[str]:
    """What `check` says of a data set."""
    result = check(root, quiet=True)
    return [*result.problems, *result.notes]


def pair(root: Path, labels: str = "image,label\na.jpg,cat\nb.jpg,dog\n") -> Path:
    return folder(root, labels, ("a.jpg", "b.jpg"))


def tables() -> None:
    """Lists of tags that are odd."""
    header = "image,label\n"
    for name, names, content in (
        ("an empty table", "labels.csv", ""),
        ("a table of a header only", "labels.csv", header),
        ("a table without known columns", "labels.csv", "colour,shape\nred,round\n"),
        ("a table of bytes", "labels.csv", b"\x00\xff\xfe\x01" * 20),
        ("a photograph that is not there", "c.jpg", header + "a.jpg,cat\nb.jpg,dog\nc.jpg,cat\n"),
        ("a class called none", "no label", header + "a.jpg,none\nb.jpg,dog\n"),
        ("labels with a column of 0 and 1", "says 0", "image,label,present\na.jpg,cat,1\nb.jpg,dog,0\n"),
        ("a quote that is not closed", "labels.csv", header + 'a.jpg,"cat\nb.jpg,dog\n'),
        ("a split of another name", "no split", "image,label,split\na.jpg,cat,train\nb.jpg,dog,mine\n"),
        ("classes that look alike", "look alike", header + "a.jpg,cat\nb.jpg,\uff43\uff41\uff54\n"),
        ("classes that differ by case", "by case only", header + "a.jpg,cat\nb.jpg,Cat\n"),
        ("300 classes", "300", header + "a.jpg," + ";".join(f"c{n}" for n in range(300)) + "\nb.jpg,c1\n"),
        ("an address for a photograph", "https", header + "https://example.org/a.jpg,cat\nb.jpg,dog\n"),
    ):

        @case(name, names)
        def run(at: Path, content: str | bytes = content) -> Answer:
            root = pair(at)
            (root / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
            return checked(root)

    @case("a folder for a table", "labels.csv")
    def _(at: Path) -> Answer:
        root = pair(at)
        (root / "labels.csv").unlink()
        (root / "labels.csv").mkdir()
        return checked(root)

    @case("a tag that the class list lacks", "cow")
    def _(at: Path) -> Answer:
        root = pair(at, header + "a.jpg,cow\nb.jpg,dog\n")
        (root / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
        return checked(root)

    @case("a class that is listed twice", "cat")
    def _(at: Path) -> Answer:
        (pair(at) / "classes.txt").write_text("cat\ndog\ncat\n", encoding="utf-8")
        return checked(at)

    @case("a split that names what is not there", "z.jpg")
    def _(at: Path) -> Answer:
        (pair(at) / "train.txt").write_text("a.jpg\nz.jpg\n", encoding="utf-8")
        return checked(at)

    @case("a split that is no text", "train.txt")
    def _(at: Path) -> Answer:
        (pair(at) / "train.txt").write_bytes(b"\xff\xfe\x00\x81" * 9)
        return checked(at)

    @case("a class list with background amid it", "background")
    def _(at: Path) -> Answer:
        (pair(at) / "classes.txt").write_text("cat\nbackground\ndog\n", encoding="utf-8")
        return checked(at)

    @case("a photograph in both splits", "train.txt too")
    def _(at: Path) -> Answer:
        (pair(at) / "train.txt").write_text("a.jpg\nb.jpg\n", encoding="utf-8")
        (at / "val.txt").write_text("a.jpg\n", encoding="utf-8")
        return checked(at)

    @case("a class that only evaluation photographs have", "dog")
    def _(at: Path) -> Answer:
        (pair(at) / "train.txt").write_text("a.jpg\n", encoding="utf-8")
        (at / "val.txt").write_text("b.jpg\n", encoding="utf-8")
        return checked(at)

    @case("evaluation photographs without any tag", "val")
    def _(at: Path) -> Answer:
        root = folder(at, header + "a.jpg,cat\nb.jpg,dog\nc.jpg,\n")
        (root / "train.txt").write_text("a.jpg\nb.jpg\n", encoding="utf-8")
        (root / "val.txt").write_text("c.jpg\n", encoding="utf-8")
        return checked(root)


def trees() -> None:
    """Folders that are odd."""

    @case("no folder", "nowhere")
    def _(at: Path) -> Answer:
        return checked(at / "nowhere")

    for name, names, tree in (
        ("a data set one folder down", "data/", ("data/train/cat/a.jpg", "data/val/cat/b.jpg")),
        ("splits of other names", "class", ("train_images/a.jpg", "test_images/b.jpg")),
        ("photographs and masks side by side", "class", ("image/a.jpg", "mask/a.png")),
        ("masks among the classes", "Masks", ("cat/a.jpg", "dog/b.jpg", "Masks/a.png")),
        ("a split of classes beside something", "like a split", ("train/cat/a.jpg", "train/dog/b.jpg", "other/c.jpg")),
        ("an evaluation split alone", "val/", ("val/cat/a.jpg", "val/dog/b.jpg")),
        ("a data set below a split", "data/", ("train/data/cat/a.jpg", "train/data/dog/b.jpg", "val/data/cat/c.jpg")),
        (
            "photographs and masks below splits",
            "class",
            ("train/images/a.jpg", "train/masks/a.png", "val/images/b.jpg"),
        ),
        ("classes and a test split", "test", ("cat/a.jpg", "dog/b.jpg", "test/c.jpg")),
        ("splits below some classes", "split", ("cat/train/a.jpg", "cat/val/b.jpg", "dog/c.jpg")),
        ("splits with a word before", "class", ("seg_train/sea/a.jpg", "seg_test/sea/b.jpg")),
        ("folds", "class", ("fold0/cat/a.jpg", "fold1/cat/b.jpg")),
    ):

        @case(name, names)
        def run(at: Path, tree: tuple[str, ...] = tree) -> Answer:
            for name in tree:
                photo(at / name)
            return checked(at)

    @case("masks beside their photographs", "beside its photograph")
    def _(at: Path) -> Answer:
        for name in ("cat/a.jpg", "dog/b.jpg", "dog/b_mask.png"):
            photo(at / name)
        return checked(at)

    @case("a palette that shows the background bright", "bright")
    def _(at: Path) -> Answer:
        root = folder(at, "image,label\na.jpg,cat\nb.jpg,\n", ("a.jpg", "b.jpg"))
        picture = Image.fromarray(np.repeat(np.uint8([[0, 1]]), 20, 0).repeat(15, 1))
        picture.putpalette([255, 255, 255, 0, 0, 0])
        (root / "masks").mkdir()
        picture.save(root / "masks" / "a.png")
        return checked(root)

    @case("YOLO's layout without its list", "YOLO")
    def _(at: Path) -> Answer:
        photo(at / "train" / "images" / "a.jpg")
        (at / "train" / "labels").mkdir()
        (at / "train" / "labels" / "a.txt").write_text("0 .5 .5 .1 .1\n", encoding="utf-8")
        return checked(at)

    @case("an annotation beside each photograph", "annotation")
    def _(at: Path) -> Answer:
        photo(at / "train" / "a.jpg")
        (at / "train" / "a.xml").write_text("<annotation/>", encoding="utf-8")
        return checked(at)

    @case("the same photograph for training and evaluation", "numbers")
    def _(at: Path) -> Answer:
        root = pair(at)
        (root / "images" / "b.jpg").write_bytes((root / "images" / "a.jpg").read_bytes())
        (root / "labels.csv").write_text("image,label,split\na.jpg,cat,train\nb.jpg,cat,val\n", encoding="utf-8")
        return checked(root)

    @case("masks whose numbers are in another order", "order of the classes")
    def _(at: Path) -> Answer:
        root = pair(at)
        mask(root / "masks" / "a.png", [0, 2])
        mask(root / "masks" / "b.png", [0, 1])
        return checked(root)

    @case("masks in another folder", "masks")
    def _(at: Path) -> Answer:
        mask(pair(at) / "SegmentationClass" / "a.png", [0, 1])
        return checked(at)

    @case("a photograph that the camera turned, with a mask", "turned")
    def _(at: Path) -> Answer:
        root = pair(at)
        picture = Image.open(root / "images" / "a.jpg")
        exif = Image.Exif()
        exif[0x0112] = 3
        picture.save(root / "images" / "a.jpg", exif=exif)
        mask(root / "masks" / "a.png", [0, 1])
        return checked(root)

    @case("photographs that fill 12 of 16 bits", "12 are used")
    def _(at: Path) -> Answer:
        root = folder(at, "image,label\na.png,cat\n", ("a.png",))
        Image.fromarray(np.full((20, 30), 4000, dtype=np.uint16)).save(root / "images" / "a.png")
        return checked(root)

    @case("an empty folder", "empty")
    def _(at: Path) -> Answer:
        (at / "empty").mkdir()
        return checked(at / "empty")

    @case("photographs without tags", "images")
    def _(at: Path) -> Answer:
        photo(at / "images" / "a.jpg")
        return checked(at)

    @case("YOLO's layout", "YOLO")
    def _(at: Path) -> Answer:
        photo(at / "train" / "images" / "a.jpg")
        (at / "train" / "labels").mkdir()
        (at / "train" / "labels" / "a.txt").write_text("0 .5 .5 .1 .1\n", encoding="utf-8")
        (at / "data.yaml").write_text("names: [cat]\n", encoding="utf-8")
        return checked(at)

    @case("a link that leads to itself", "loop")
    def _(at: Path) -> Answer:
        root = pair(at)
        (root / "images" / "loop").symlink_to(root / "images", target_is_directory=True)
        return checked(root)

    @case("a link that leads nowhere", "gone.jpg")
    def _(at: Path) -> Answer:
        root = pair(at)
        (root / "images" / "gone.jpg").symlink_to(root / "nothing.jpg")
        return checked(root)

    @case("names that differ by case", "by case only")
    def _(at: Path) -> Answer:
        return checked(folder(at, "image,label\na.jpg,cat\nA.jpg,dog\n", ("a.jpg", "A.jpg")))

    @case("a name of two lines", "rename")
    def _(at: Path) -> Answer:
        photo(at / "cat" / "a\nb.jpg")
        photo(at / "dog" / "c.jpg")
        return checked(at)

    @case("a name of 245 bytes", "longer than")
    def _(at: Path) -> Answer:
        return checked(folder(at, f"image,label\n{'n' * 245}.jpg,cat\nc.jpg,dog\n", (f"{'n' * 245}.jpg", "c.jpg")))

    @case("masks of no photograph", "masks")
    def _(at: Path) -> Answer:
        root = pair(at)
        mask(root / "masks" / "other.png", [0, 1])
        return checked(root)


def files() -> None:
    """Photographs and masks that are odd."""

    def png(width: int, height: int) -> bytes:
        def part(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + header + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")

    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(whole, format="JPEG")
    real = io.BytesIO()
    Image.fromarray(np.full((20, 30), 0.5, dtype=np.float32)).save(real, format="TIFF")
    for name, content in (
        ("a photograph of no bytes", b""),
        ("a photograph that is text", b"not a picture\n"),
        ("a photograph that is cut off", whole.getvalue()[:400]),
        ("PostScript called JPEG", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
        ("a header of 10 gigapixels", png(100_000, 100_000)),
        ("a photograph of 4 pixels", png(4, 4)),
        ("greys without a range", b"II*\x00" + b"\x00" * 40),
        ("a web page called JPEG", b"<!DOCTYPE html><html></html>"),
    ):

        @case(name, "a.jpg")
        def run(at: Path, content: bytes = content) -> Answer:
            (pair(at) / "images" / "a.jpg").write_bytes(content)
            return checked(at)

    @case("a folder called a photograph", "a.jpg")
    def _(at: Path) -> Answer:
        root = pair(at)
        (root / "images" / "a.jpg").unlink()
        (root / "images" / "a.jpg").mkdir()
        return checked(root)

    for name, names, values in (
        ("masks of 0 and 255", "255", [0, 255]),
        ("masks that count from 1", "background", [1, 2]),
        ("a mask of a class that is not there", "value 9", [0, 9]),
    ):

        @case(name, names)
        def masks(at: Path, values: list[int] = values) -> Answer:
            for stem in ("a", "b"):
                mask(pair(at) / "masks" / f"{stem}.png", values)
            return checked(at)

    @case("a mask of another size", "40 x 20")
    def _(at: Path) -> Answer:
        mask(pair(at) / "masks" / "a.png", [0, 1], (20, 40))
        return checked(at)

    @case("a mask of strange colours", "colours")
    def _(at: Path) -> Answer:
        (pair(at) / "masks").mkdir()
        colours = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(colours).save(at / "masks" / "a.png")
        return checked(at)

    @case("a mask that is cut off", "a.png")
    def _(at: Path) -> Answer:
        path = pair(at) / "masks" / "a.png"
        mask(path, [0, 1])
        path.write_bytes(path.read_bytes()[:-30])
        return checked(at)


def annotations() -> None:
    """Annotations that are odd."""
    images = [{"id": 1, "file_name": "a.jpg", "width": 30, "height": 20}]
    classes = [{"id": 1, "name": "cat"}]
    square = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]], "bbox": [0, 0, 9, 9]}

    def coco(images: Any = images, categories: Any = classes, annotations: Any = (square,)) -> str:
        return json.dumps({"images": images, "categories": categories, "annotations": list(annotations)})

    for name, names, text in (
        ("annotations cut off", "instances_train.json", coco()[:-20]),
        ("annotations that are a list", "instances_train.json", "[]"),
        ("annotations without photographs", "instances_train.json", json.dumps({"categories": classes})),
        ("annotations without classes", "categor", coco(categories=[])),
        ("an annotation of an unknown class", "7", coco(annotations=[square, {**square, "id": 2, "category_id": 7}])),
        ("two photographs of one number", "several images",
            coco(images=[*images, {**images[0], "file_name": "b.jpg"}])),
        ("numbers that are lists", "categor", coco(annotations=[square, {**square, "category_id": [1]}])),
        ("a corner far away", "a.jpg", coco(annotations=[{**square, "segmentation": [[1e9, 5, 9, 5, 9, 9]]}])),
        ("a corner that is nothing", "a.jpg",
            coco(annotations=[{**square, "segmentation": [[None, 5, 9, 5, 9, 9]]}])),
        ("a photograph of a gigapixel by its entry", "a.jpg", coco(images=[{**images[0], "width": 10**6,
            "height": 10**6}])),
        ("outlines without corners", "outline", coco(annotations=[{**square, "segmentation": []}])),
        ("an annotation of no photograph", "not listed",
            coco(annotations=[square, {**square, "id": 2, "image_id": 99}])),
        ("a run-length code that does not fit", "a", coco(annotations=[
            {**square, "segmentation": {"size": [20, 30], "counts": [5, 5]}}])),
        ("a photograph without an annotation", "without an annotation",
            coco(images=[*images, {**images[0], "id": 2, "file_name": "b.jpg"}])),
    ):  # fmt: skip

        @case(name, names)
        def run(at: Path, text: str = text) -> Answer:
            photo(at / "train" / "a.jpg")
            (at / "annotations").mkdir()
            (at / "annotations" / "instances_train.json").write_text(text, encoding="utf-8")
            return checked(at)

    def devkit(at: Path, content: bytes, split: str = "a\n") -> list[str]:
        photo(at / "JPEGImages" / "a.jpg")
        for name in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
            (at / name).mkdir(parents=True)
        (at / "Annotations" / "a.xml").write_bytes(content)
        for name in ("Main", "Segmentation"):
            (at / "ImageSets" / name / "train.txt").write_text(split, encoding="utf-8")
        return checked(at)

    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox>"
    good = f"<annotation><object><name>cat</name>{box.format(9)}</object></annotation>".encode()
    for name, names, content, split in (
        ("XML cut off", "a.xml", good[:-9], "a\n"),
        ("XML that is none", "a.xml", b"\x00\x01\x02", "a\n"),
        ("a box without an edge", "whole box", good.replace(b"<xmax>9", b"<xmax>"), "a\n"),
        ("an object without a name", "a.xml", good.replace(b"<name>cat</name>", b""), "a\n"),
        ("a VOC split that names what is not there", "zebra", good, "a\nzebra\n"),
    ):

        @case(name, names)
        def voc(at: Path, content: bytes = content, split: str = split) -> Answer:
            return devkit(at, content, split)


def settings() -> None:
    """Settings, recipes and places that are odd."""

    def fit(at: Path, recipe: str = "cam", out: Path | None = None, **given: Any) -> None:
        changed = {key.replace("__", "."): value for key, value in given.items()}
        data = make_synthetic(at / "data", train=4, val=2, sides=(40, 61))
        tagseg.fit(data, out or at / "run", recipe=recipe, settings={**TINY, **changed}, quiet=True)

    for key, value in (
        ("train.epoch", 3), ("train.epochs", "many"), ("train.epochs", -1), ("train.epochs", 10**12), ("seed", 2**70),
        ("train.side", 10**7), ("train.learning_rate", float("nan")), ("train.batch_size", 0),
        ("backbone", "resnet5O"), ("weights", "nowhere.pth"), ("masks.refine", "crff"), ("mine.scales", []),
        ("mine.scales", [0.0]), ("processes", -2), ("segment.epochs", None),
    ):  # fmt: skip

        @case(f"{key} of {value}", key if key != "weights" else "nowhere.pth")
        def run(at: Path, key: str = key, value: Any = value) -> Answer:
            return fit(at, **{key.replace(".", "__"): value})

    bomb = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    for name, names, text in (
        ("a recipe of references", "recipe.yaml", bomb),
        ("a recipe that is no YAML", "recipe.yaml", "method: [cam\n"),
        ("a recipe that runs Python", "recipe.yaml", "method: !!python/object/apply:os.system ['true']\n"),
        ("a recipe that is a list", "recipe.yaml", "- cam\n"),
    ):

        @case(name, names)
        def recipe(at: Path, text: str = text) -> Answer:
            (at / "recipe.yaml").write_text(text, encoding="utf-8")
            return fit(at, recipe=str(at / "recipe.yaml"))

    @case("a method that is not there", "camm")
    def _(at: Path) -> Answer:
        return fit(at, recipe="camm")

    @case("a file for the folder of a run", "taken")
    def _(at: Path) -> Answer:
        (at / "taken").write_text("mine\n", encoding="utf-8")
        return fit(at, out=at / "taken")

    @case("a folder of somebody's for that of a run", "photos")
    def _(at: Path) -> Answer:
        photo(at / "photos" / "a.jpg")
        return fit(at, out=at / "photos")

    @case("weights that are a list", "list.pth")
    def _(at: Path) -> Answer:
        torch.save([torch.zeros(2)], at / "list.pth")
        return fit(at, weights=str(at / "list.pth"))

    @case("weights that run something", "odd.pth")
    def _(at: Path) -> Answer:
        (at / "odd.pth").write_bytes(pickle.dumps(Path("x")))
        return fit(at, weights=str(at / "odd.pth"))

    @case("weights of another network", "other.pth")
    def _(at: Path) -> Answer:
        torch.save(torch.nn.Conv2d(3, 4, 3).state_dict(), at / "other.pth")
        return fit(at, weights=str(at / "other.pth"))

    @case("weights that are cut off", "cut.safetensors")
    def _(at: Path) -> Answer:
        save_file({"a": torch.zeros(9)}, at / "cut.safetensors")
        (at / "cut.safetensors").write_bytes((at / "cut.safetensors").read_bytes()[:-5])
        return fit(at, weights=str(at / "cut.safetensors"))

    @case("a program for saliency", "data.saliency_program")
    def _(at: Path) -> Answer:
        (at / "net.pt2").write_bytes(b"PK\x03\x04")
        return fit(at, recipe="eps", data__saliency=str(at / "net.pt2"))


def saved(model: Path) -> None:
    """A saved network, photographs for it, and masks of others that are odd."""

    def changed(at: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
        at.mkdir(exist_ok=True)
        for path in model.iterdir():
            if path.is_file():
                (at / path.name).write_bytes(path.read_bytes())
        facts = json.loads((at / "model.json").read_text(encoding="utf-8"))
        change(facts)
        (at / "model.json").write_text(json.dumps(facts), encoding="utf-8")
        return at

    for key, value in (
        ("input.side", None), ("input.side", -5), ("input.side", 10**18), ("input.mean", [0.5, 0.5]), ("classes", []),
        ("input.std", [0.0, 1.0, 1.0]), ("architecture.backbone", "no_such_network"), ("classes", ["a"]),
        ("input.side", "large"), ("format", 99), ("architecture", None),
    ):  # fmt: skip

        @case(f"a model with {key} {value}", "")
        def run(at: Path, key: str = key, value: Any = value) -> Answer:
            *above, last = key.split(".")
            odd = changed(at / "model", lambda facts: (facts[above[0]] if above else facts).update({last: value}))
            tagseg.load(odd).predict(np.zeros((40, 60, 3), dtype=np.uint8))
            return None

    @case("a model that is not a number", "finite")
    def _(at: Path) -> Answer:
        odd = changed(at / "model", lambda facts: None)
        path = next(odd.glob("*.safetensors"))
        values = load_file(path)
        key = next(k for k, v in values.items() if v.is_floating_point())
        values[key] = torch.full_like(values[key], float("nan"))
        save_file(values, path)
        tagseg.load(odd)
        return None

    @case("no model", "nowhere")
    def _(at: Path) -> Answer:
        tagseg.load(at / "nowhere")
        return None

    def predict(at: Path, images: list[Any], **given: Any) -> None:
        tagseg.predict(model, images, given.pop("out", at / "out"), quiet=True, **given)

    @case("a photograph that is nowhere", "nowhere.jpg")
    def _(at: Path) -> Answer:
        return predict(at, [at / "nowhere.jpg"])

    @case("a photograph to segment that is text", "a.jpg")
    def _(at: Path) -> Answer:
        (at / "a.jpg").write_text("text", encoding="utf-8")
        return predict(at, [at / "a.jpg"])

    @case("a file for the folder of masks", "taken")
    def _(at: Path) -> Answer:
        photo(at / "a.jpg")
        (at / "taken").write_text("mine\n", encoding="utf-8")
        return predict(at, [at / "a.jpg"], out=at / "taken")

    @case("masks in place of their photographs", "a.png")
    def _(at: Path) -> Answer:
        photo(at / "photos" / "a.png")
        before = read_image(at / "photos" / "a.png")
        try:
            return predict(at, [at / "photos"], out=at / "photos")
        finally:
            assert np.array_equal(read_image(at / "photos" / "a.png"), before), "the photograph was overwritten"

    @case("a photograph whose name is too long for its results", "n" * 240)
    def _(at: Path) -> Answer:
        photo(at / f"{'n' * 245}.jpg")
        return predict(at, [at / f"{'n' * 245}.jpg"], overlay=True)

    @case("a scale of 0", "scales")
    def _(at: Path) -> Answer:
        photo(at / "a.jpg")
        return predict(at, [at / "a.jpg"], scales=(0.0,))

    for name, odd in (
        ("an array of numbers with a point", np.zeros((20, 30, 3))),
        ("an array of two channels", np.zeros((20, 30, 2), dtype=np.uint8)),
        ("an array of no pixels", np.zeros((0, 30, 3), dtype=np.uint8)),
        ("bytes of no picture", b"text"),
        ("a photograph that is None", None),
        ("a tensor", torch.zeros(3, 20, 30)),
        ("an array of channels first", np.zeros((3, 20, 30), dtype=np.uint8)),
    ):

        @case(name, "image")
        def array(at: Path, odd: Any = odd) -> Answer:
            tagseg.load(model).predict(odd)
            return None

    for name, names, truth, guess in (
        ("a truth of 0 and 255", "255", [0, 255], [0, 1]),
        ("a prediction of other classes", "7", [0, 1], [0, 7]),
    ):

        @case(name, names)
        def evaluate(at: Path, truth: list[int] = truth, guess: list[int] = guess) -> Answer:
            mask(at / "truth" / "a.png", truth)
            mask(at / "guess" / "a.png", guess)
            tagseg.evaluate(at / "guess", at / "truth", classes=["cat"])
            return None

    @case("predictions of other names", "a.png")
    def _(at: Path) -> Answer:
        mask(at / "truth" / "b.png", [0, 1])
        mask(at / "guess" / "a.png", [0, 1])
        tagseg.evaluate(at / "guess", at / "truth")
        return None

    @case("a prediction of another size", "a.png")
    def _(at: Path) -> Answer:
        mask(at / "truth" / "a.png", [0, 1])
        mask(at / "guess" / "a.png", [0, 1], (20, 31))
        tagseg.evaluate(at / "guess", at / "truth")
        return None

    def rough(at: Path, values: np.ndarray | None, **given: Any) -> None:
        photo(at / "photos" / "a.jpg")
        (at / "rough").mkdir()
        if values is not None:
            np.save(at / "rough" / "a.npy", values)
        tagseg.refine(at / "photos", at / "rough", at / "out", quiet=True, **given)

    for name, names, values in (
        ("no rough masks", "rough", None),
        ("scores of another size", "a.npy", np.zeros((2, 9, 9), dtype=np.float32)),
        ("scores that are not numbers", "a.npy", np.full((2, 20, 30), np.nan, dtype=np.float32)),
        ("scores of one class alone", "a.npy", np.zeros((20, 30), dtype=np.float32)),
        ("scores that are objects", "a.npy", np.array([None, "x"], dtype=object)),
    ):

        @case(name, names)
        def scores(at: Path, values: np.ndarray | None = values) -> Answer:
            return rough(at, values)

    @case("a rough mask of 0 and 255", "255")
    def _(at: Path) -> Answer:
        photo(at / "photos" / "a.jpg")
        mask(at / "rough" / "a.png", [0, 255])
        tagseg.refine(at / "photos", at / "rough", at / "out", quiet=True)
        return None


def outcome(names: str, made: Callable[[Path], Answer], at: Path) -> tuple[bool, str]:
    """Whether the answer to a case is one clear sentence, and the answer."""
    try:
        said = list(made(at) or ())
    except BadInput as error:
        said = [str(error)]
    except Exception:
        return False, traceback.format_exc().splitlines()[-1]
    right = [s for s in said if names in s and len(s.splitlines()) == 1 and s.rstrip().endswith((".", "?"))]
    return bool(right), (right or said or ["nothing"])[0]


def try_all(model: Path, at: Path) -> dict[str, tuple[bool, str]]:
    """The outcomes of all cases. `model` is a segmentation network of `tagseg fit`."""
    if not CASES:
        tables(), trees(), files(), annotations(), settings(), saved(model)  # type: ignore[func-returns-value]
    found = {}
    for number, (name, (names, made)) in enumerate(CASES.items()):
        (at / str(number)).mkdir()
        found[name] = outcome(names, made, at / str(number))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print all sentences")
    shown = parser.parse_args().show
    with tempfile.TemporaryDirectory() as name:
        at = Path(name)
        data = make_synthetic(at / "data", train=6, val=2, sides=(40, 61))
        run = tagseg.fit(data, at / "run", recipe="cam", settings=TINY, quiet=True)
        assert run.model is not None
        (at / "cases").mkdir()
        os.chdir(at)
        found = try_all(run.model, at / "cases")
    wrong = sum(not clear for clear, _ in found.values())
    print(f"bad inputs: {len(found)} tried, {len(found) - wrong} clear, {wrong} wrong")
    for what, (clear, said) in found.items():
        if shown or not clear:
            print(f"  {'' if clear else 'WRONG '}{what}: {said.replace(name, '...')}")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
