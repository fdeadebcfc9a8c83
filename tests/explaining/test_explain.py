import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

import tagseg
from tagseg.errors import BadInput
from tagseg.explaining.classifiers import load_classifier
from tagseg.networks.settings import EncoderSettings
from tests.data.trees import photo

NETWORK = {"model": "timm:test_resnet", "weights": "random", "side": 64, "quiet": True}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of three classes."""
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "three.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path)
    return path


def test_explain_a_run(tiny_run: Any, tiny_set: Path, tmp_path: Path):
    image = sorted((tiny_set / "images").glob("*"))[0]
    written = tagseg.explain([image], tiny_run.folder, tmp_path, methods=["layercam", "cam"], top=2, quiet=True)
    assert len(written) == 2 * 3
    assert {p.name.rsplit(".", 2)[1] for p in written} == {"layercam", "cam", "sheet"}
    for path in written:
        assert np.asarray(Image.open(path)).std() > 0
    layercam = next(p for p in written if p.name.endswith("layercam.jpg"))
    assert Image.open(layercam).size == Image.open(image).size


@pytest.mark.parametrize(
    "method", ["cam", "gradcam", "gradcam++", "layercam", "layercam-normal", "normgrad", "scorecam"]
)
@pytest.mark.parametrize("layers", ["stages", "last", ["layer2"]])
def test_explain_with_every_method(weights: Path, tmp_path: Path, method: str, layers: Any):
    photo(tmp_path / "a.jpg", (40, 50))
    network = {**NETWORK, "weights": str(weights)}
    written = tagseg.explain([tmp_path / "a.jpg"], out=tmp_path / "out", methods=[method], layers=layers, **network)
    assert len(written) == 6  # three classes, a picture and a sheet each


def test_classes_by_name_and_number(tmp_path: Path):
    photo(tmp_path / "a.jpg", (40, 50))
    written = tagseg.explain([tmp_path / "a.jpg"], out=tmp_path / "out", classes=["tench", "281"], **NETWORK)
    assert [p.name for p in written] == [
        "a.tench.layercam.jpg",
        "a.tench.sheet.png",
        "a.tabby.layercam.jpg",
        "a.tabby.sheet.png",
    ]


@pytest.mark.parametrize("options", [{}, {"cut": True}, {"crops": True}, {"threshold": 0.5, "method": "gradcam"}])
def test_locate(weights: Path, tmp_path: Path, options: dict[str, Any]):
    for name, seed in (("a", 0), ("b", 1)):
        photo(tmp_path / "in" / f"{name}.jpg", (48, 60), seed)
    network = {**NETWORK, "weights": str(weights)}
    boxes = tagseg.locate([tmp_path / "in"], out=tmp_path / "out", top=2, **network, **options)
    with pytest.raises(BadInput, match="ten crops are not spread"):
        tagseg.locate([tmp_path / "in"], out=tmp_path / "no", crops=True, encoder=EncoderSettings(), **network)
    with open(tmp_path / "out/boxes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    coco = json.loads((tmp_path / "out/boxes.json").read_text())
    assert len(boxes) == len(rows) == len(coco["annotations"])
    for box, annotation in zip(boxes, coco["annotations"], strict=True):
        x, y, width, height = annotation["bbox"]
        assert (box.xmin, box.ymin, box.xmax, box.ymax) == (x, y, x + width, y + height)
        assert 0 <= x < x + width <= 60
        assert 0 <= y < y + height <= 48
    assert [i["file_name"] for i in coco["images"]] == ["a.jpg", "b.jpg"]
    assert {p.name for p in (tmp_path / "out").glob("*.jpg")} == {"a.boxes.jpg", "b.boxes.jpg"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "timm:resnet5"}, "did you mean"),
        ({"model": "torchvision:resnet5"}, "did you mean"),
        ({"model": "nowhere"}, "give timm:NAME"),
        ({"weights": "nowhere.pth"}, "no such weights file"),
        ({"side": 8}, "at least 32"),
        ({"classes": ["tabbi"]}, "did you mean 'tabby'"),
        ({"classes": ["1000"]}, "no such class"),
        ({"methods": ["gradcamm"]}, "did you mean 'gradcam'"),
        ({"layers": ["layer9"]}, "near names: layer"),
        ({"top": 0}, "at least 1"),
    ],
)
def test_input_that_does_not_do(tmp_path: Path, changes: dict[str, Any], message: str):
    photo(tmp_path / "a.jpg", (40, 50))
    with pytest.raises(BadInput, match=message):
        tagseg.explain([tmp_path / "a.jpg"], out=tmp_path / "out", **{**NETWORK, **changes})


def test_a_file_that_is_no_image(tmp_path: Path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(BadInput, match="not an image"):
        tagseg.explain([tmp_path / "a.jpg"], out=tmp_path / "out", **NETWORK)


def test_a_folder_that_is_no_run(tmp_path: Path):
    with pytest.raises(BadInput, match="no run with a trained classifier"):
        load_classifier(tmp_path)


def test_weights_of_another_network(tmp_path: Path, weights: Path):
    with pytest.raises(BadInput, match="do not fit the model"):
        load_classifier("timm:test_vit", str(weights))


def test_torchvision_weights_tell_the_classes(tmp_path: Path):
    torch.save(models.squeezenet1_1(num_classes=7).state_dict(), tmp_path / "seven.pth")
    classifier = load_classifier("torchvision:squeezenet1_1", str(tmp_path / "seven.pth"), side=64)
    assert classifier.classes == tuple(f"class {n}" for n in range(7))
    assert classifier.model(classifier.images([np.zeros((30, 40, 3), np.uint8)])).shape == (1, 7)
