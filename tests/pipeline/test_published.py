"""Recipes are what is published, or say why not."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import tagseg
from tagseg.cli import app
from tagseg.data.reading import read_dataset
from tagseg.pipeline.networks import check_networks
from tagseg.pipeline.published import names, published
from tagseg.pipeline.settings import recipe_names, resolve
from tagseg.pipeline.training import Sharing

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
            known = [value for value in (line.paper, line.code) if value != "-"]
            assert line.why or all(same(line.ours, value) for value in known), line
        if line.shown is not None:
            assert same(line.ours, line.shown), line


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
            assert 1 <= shared <= processes


SMALL: dict[str, Any] = {
    "train.epochs": 2,
    "train.batch_size": 2,
    "train.side": 64,
    "mine.side": 64,
    "segment.backbone": "test_resnet",
    "segment.weights": "random",
    "segment.epochs": 1,
    "segment.side": 49,
    "predict.side": 64,
    "predict.scales": [0.75, 1.0],
}
OF_A_METHOD: dict[str, dict[str, Any]] = {
    "voc/l2g": {"train.view_side": 49, "train.warmup": 0.0, "train.pixel_correlation": False},
    "voc/ktse": {
        "train.warmup_batch_size": 2,
        "masks.irn.side": 64,
        "masks.irn.epochs": 1,
        "masks.irn.walk_side": 64,
        "masks.irn.radius": 3,
    },
    "voc/oaa+++": {"train.integral.side": 64, "train.integral.epochs": 1, "mine.side": 64},
    "voc/psa": {"masks.psa.side": 64, "masks.psa.epochs": 1, "masks.psa.walk_side": 64},
    "voc/seam": {"masks.psa.side": 64, "masks.psa.epochs": 1, "masks.psa.walk_side": 64},
    "voc/sipe": {"masks.irn.side": 64, "masks.irn.epochs": 1, "masks.irn.walk_side": 64, "masks.irn.radius": 3},
    "voc/weaktr": {"segment.side": 64},
    "voc/mctformer+": {
        "masks.psa.backbone": "test_resnet",
        "masks.psa.weights": "random",
        "masks.psa.side": 64,
        "masks.psa.epochs": 1,
        "masks.psa.walk_side": 64,
    },
}
TRANSFORMERS = ("voc/ss-epa", "voc/mctformer+", "voc/weaktr")


@pytest.mark.parametrize(
    "recipe",
    [
        "voc/oaa+++",
        "voc/l2g",
        "voc/ktse",
        "voc/psa",
        "voc/ss-epa",
        "voc/seam",
        "voc/sipe",
        "voc/mctformer+",
        "voc/weaktr",
    ],
)
def test_a_small_run_goes_to_its_report(recipe: str, tiny_set: Path, tmp_path: Path):
    """Of random weights, in a data set that has what the recipe asks for."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("images", "masks", "labels.csv", "train.txt", "val.txt", "classes.txt"):
        if (tiny_set / name).exists():
            (data / name).symlink_to(tiny_set / name)
    (data / "saliency").mkdir()
    for sample in read_dataset(tiny_set).samples:
        shape = np.asarray(Image.open(sample.image)).shape[:2]
        saliency = np.zeros(shape, dtype=np.uint8)
        saliency[10:30, 10:30] = 255
        Image.fromarray(saliency).save(data / "saliency" / f"{sample.name}.png")
    settings = {**SMALL, "backbone": "test_vit" if recipe in TRANSFORMERS else "test_resnet", "weights": "random"}
    settings |= OF_A_METHOD.get(recipe, {})
    if recipe == "voc/ktse":
        settings |= {"masks.irn.backbone": "test_resnet", "masks.irn.weights": "random"}
    found = tagseg.fit(data, tmp_path / "run", recipe=recipe, settings=settings, quiet=True)
    assert found.metrics.val is not None
    assert found.metrics.val.protocol is not None
    assert found.metrics.val.protocol.miou is not None
    assert tagseg.load(found.folder).protocol == resolve(recipe, settings).predict


@pytest.mark.parametrize("recipe", ["voc/cam", "voc/ktse", "voc/afa"])
def test_its_networks_exist(recipe: str):
    torch.manual_seed(0)
    changes = {"weights": "random", "segment.weights": "random", "masks.irn.weights": "random"}
    check_networks(resolve(recipe, changes), ["cat", "dog"])
