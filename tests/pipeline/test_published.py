"""Recipes are what is published, or say why not."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import tagseg
from tagseg.cli import app
from tagseg.data.dataset import read_mask
from tagseg.data.images import write_mask
from tagseg.data.readers.voc import VOC_CLASSES
from tagseg.data.reading import read_dataset
from tagseg.files import write_json
from tagseg.pipeline.networks import check_networks
from tagseg.pipeline.published import NOTHING, UNREAD, names, published
from tagseg.pipeline.settings import parse_yaml, recipe_names, resolve
from tagseg.pipeline.training import Sharing
from tagseg.run_lengths import encode_runs

RECIPES = Path(tagseg.__file__).parent / "recipes"
DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"
PUBLISHED = [name for name in recipe_names() if name.split("/")[0] in ("voc", "coco")]


def same(one: Any, other: Any) -> bool:
    with contextlib.suppress(TypeError):
        return bool(abs(one - other) < 1e-9)
    return bool(one == other)


@pytest.mark.parametrize("recipe", names())
def test_what_differs_from_the_publication_says_why(recipe: str):
    for line in published(recipe):
        if same(line.ours, line.paper) and same(line.ours, line.code):
            assert not line.why, line  # nothing differs
        elif not same(line.ours, line.shown):  # the same in other words
            known = [value for value in (line.paper, line.code) if value not in (NOTHING, UNREAD)]
            assert line.why or all(same(line.ours, value) for value in known), line
        if line.shown is not None:
            assert same(line.ours, line.shown), line


@pytest.mark.parametrize("recipe", [*PUBLISHED, "cub/adl", "ilsvrc/spg"])
def test_every_setting_of_a_recipe_has_a_line(recipe: str):
    """`steps` are those of its epochs."""
    given = parse_yaml((RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8"))
    told = {line.setting for line in published(recipe)}
    told |= {f"{part}epochs" for part, steps in (("train.", "steps"), ("segment.", "segment.steps")) if steps in told}
    missing = [key for key in _leaves(given) if key not in told and not any(key.startswith(f"{t}.") for t in told)]
    assert missing == ["method"]


def _leaves(values: dict[str, Any], before: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield before + key


def test_the_table_in_the_documentation_is_of_these_recipes():
    printed = CliRunner().invoke(app, ["recipes", "--published"]).output
    assert printed.strip() in DOCS.read_text(encoding="utf-8")
    one = CliRunner().invoke(app, ["recipes", "voc/toco", "--published"]).output
    assert "| `train.patch_weight` | 0.2 | 0.2 | 0.2 |" in one
    with pytest.raises(tagseg.BadInput, match="follows no publication"):
        CliRunner().invoke(app, ["recipes", "cam", "--published"], catch_exceptions=False)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_every_number_of_processes_is_accepted(recipe: str):
    settings = resolve(recipe)
    parts = [settings.train, settings.train.successor, settings.segment]
    for processes in (1, 2, 4, 8):
        for part in filter(None, parts):
            batches = {part.batch_size_at(e) for e in range(part.epochs)} if part is not settings.segment else set()
            shared, _ = Sharing(processes).of(*(batches or {part.batch_size}))
            assert shared == min(processes, *(batches or {part.batch_size}))


SMALL: dict[str, Any] = {
    "weights": "random",
    "train.epochs": 2,
    "train.batch_size": 2,
    "train.side": 64,
    "mine.side": 64,
    "segment.backbone": "test_resnet",
    "segment.weights": "random",
    "segment.epochs": 1,
    "segment.side": 64,
    "predict.side": 64,
    "predict.scales": [0.75, 1.0],
}
L2G = {"train.view_side": 49, "train.warmup": 0.0, "train.pixel_correlation": False}
PYRAMID = {"train.warmup_batch_size": 2}
INTEGRAL = {"train.integral.side": 64, "train.integral.epochs": 1}
OF_A_METHOD: dict[str, dict[str, Any]] = {
    "voc/l2g": L2G,
    "coco/l2g": L2G,
    "voc/aeft": PYRAMID,
    "voc/ktse": PYRAMID,
    "voc/oaa+": INTEGRAL,
    "voc/oaa+++": INTEGRAL,
}
OF_A_REFINEMENT: dict[str, dict[str, Any]] = {
    "psa": {"side": 64, "epochs": 1, "walk_side": 64, "backbone": "test_resnet", "weights": "random"},
    "irn": {"side": 64, "epochs": 1, "walk_side": 64, "radius": 3, "backbone": "test_resnet", "weights": "random"},
}
SMALLER = {"vit": "test_vit", "deit": "test_vit", "mit": "mit_b0"}
# one of every kind: a second network, saliency, pairs and IRN, class tokens and PSA, one stage; the rest is for --long
SHORT = ("voc/oaa+++", "voc/l2g", "voc/ktse", "voc/mctformer+", "coco/ss-epa", "voc/afa")


@pytest.fixture(scope="module")
def trees(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny set as VOC and COCO lay it, and saliency maps of its photographs."""
    data, root = read_dataset(tiny_set), tmp_path_factory.mktemp("trees")
    voc, coco = root / "voc" / "VOCdevkit" / "VOC2012", root / "coco"
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for split, samples in (("train", data.train), ("val", data.val)):
        listed: dict[str, list[Any]] = {"images": [], "annotations": []}
        (coco / f"{split}2014").mkdir(parents=True)
        for number, sample in enumerate(samples, start=1):
            truth, name = read_mask(sample.mask), sample.name
            Image.open(sample.image).save(voc / "JPEGImages" / f"{name}.jpg")
            (coco / f"{split}2014" / f"{name}.jpg").symlink_to(voc / "JPEGImages" / f"{name}.jpg")
            write_mask(voc / "SegmentationClass" / f"{name}.png", truth)
            objects = "".join(f"<object><name>{VOC_CLASSES[tag]}</name></object>" for tag in sample.tags)
            (voc / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
            saliency = root / "saliency" / f"{name}.png"
            saliency.parent.mkdir(exist_ok=True)
            Image.fromarray((255 * (truth > 0)).astype(np.uint8)).save(saliency)
            size = {"height": truth.shape[0], "width": truth.shape[1]}
            listed["images"].append({"id": number, "file_name": f"{name}.jpg", **size})
            for tag in sample.tags:
                runs = encode_runs(truth == tag + 1)
                of = {"id": len(listed["annotations"]) + 1, "image_id": number, "category_id": tag + 1}
                listed["annotations"].append({**of, "segmentation": runs, "area": int((truth == tag + 1).sum())})
        lines = "".join(f"{sample.name}\n" for sample in samples)
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(lines)
        classes = [{"id": number, "name": name} for number, name in enumerate(data.classes, start=1)]
        write_json(coco / "annotations" / f"instances_{split}2014.json", {**listed, "categories": classes})
    return {"voc": root / "voc", "coco": coco, "saliency": root / "saliency"}


@pytest.mark.parametrize(
    "recipe", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in PUBLISHED]
)
def test_a_small_run_goes_to_its_report(recipe: str, trees: dict[str, Path], tmp_path: Path):
    """Of random weights, in a small tree of the true layout."""
    whole = resolve(recipe, {"weights": "random"}, saliency=None)
    small = next((small for start, small in SMALLER.items() if whole.backbone.startswith(start)), "test_resnet")
    settings = {**SMALL, "backbone": small, **OF_A_METHOD.get(recipe, {})}
    if whole.data.saliency == "folder":
        settings["data.saliency"] = str(trees["saliency"])
    for name, changes in OF_A_REFINEMENT.items():
        if name in whole.masks.refine:
            settings |= {f"masks.{name}.{key}": value for key, value in changes.items()}
    found = tagseg.fit(trees[recipe.split("/")[0]], tmp_path / "run", recipe=recipe, settings=settings, quiet=True)
    assert found.metrics.val is not None
    assert found.metrics.val.protocol is not None
    assert found.metrics.val.protocol.miou is not None
    assert tagseg.load(found.folder).protocol == resolve(recipe, settings).predict


@pytest.mark.parametrize("recipe", ["voc/cam", "voc/ktse", "voc/afa"])
def test_its_networks_exist(recipe: str):
    torch.manual_seed(0)
    changes = {"weights": "random", "segment.weights": "random", "masks.irn.weights": "random"}
    check_networks(resolve(recipe, changes), ["cat", "dog"])


@pytest.mark.parametrize("recipe", ["cub/cam", "ilsvrc/cam", "cub/adl", "ilsvrc/spg"])
def test_a_classifier_that_boxes_are_read_from(recipe: str, tiny_set: Path, tmp_path: Path):
    torch.manual_seed(0)
    check_networks(resolve(recipe, {"weights": "random", "segment.weights": "random"}), ["cat", "dog"])
    small = {key: value for key, value in SMALL.items() if key.split(".")[0] in ("weights", "train")}
    settings = {**small, "backbone": "test_resnet"}
    if recipe == "cub/adl":
        settings["train.layers"] = ["layer3.0", "layer4.0"]  # of the one block that a stage of the small network has
    found = tagseg.fit(tiny_set, tmp_path / "run", recipe=recipe, settings=settings, until="train", quiet=True)
    assert (found.folder / "train" / "classifier.safetensors").is_file()
