import json
from pathlib import Path
from typing import Any

import pytest

import tagseg
from tagseg.errors import BadInput
from tests.conftest import TINY
from tests.data.trees import folder


@pytest.mark.parametrize("name", ["segmentation", "defects", "superpixels", "curves", "occlusion"])
def test_a_table_and_a_picture(name: str, tiny_run: Any, tiny_set: Path, tmp_path: Path):
    methods = ["gradcam", "layercam"] if name != "defects" else ["layercam", "scorecam", "cam"]
    options: dict[str, Any] = {"methods": methods, "quiet": True, "split": "train"}
    if name == "curves":
        options["limit"] = 3
    result = tagseg.study(name, tiny_set, tiny_run.folder, tmp_path, **options)
    table = result.tables[0]
    assert {row[0] for row in table.rows} >= set(methods)
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.markdown() in result.text.read_text()
    assert json.loads((tmp_path / f"{name}.json").read_text())["photographs"] in (3, 10)
    assert result.picture.stat().st_size > 1000
    layers = {row[1] for row in table.rows if row[0] == "layercam"}
    if name == "segmentation":
        assert {"S4+S3, scaling sqrt", "S4+S3+S2, gamma 1", "S4+S3+S2, gamma 4"} <= layers
    if name == "defects":
        rates = result.tables[-1]
        assert rates.columns == ("layers", *methods)
        assert all(rate > 0 for rate in rates.rows[-1][1:])
        assert [row[3] for row in rates.rows[:-1]] == [None] * (len(rates.rows) - 1)
    if name == "occlusion":
        named, everything = (int(t.title.split(", ")[1].split()[0]) for t in result.tables)
        assert named <= everything == 10


def test_boxes(tiny_run: Any, tiny_set: Path, tmp_path: Path):
    """Boxes around the true masks of the synthetic set."""
    import shutil

    import numpy as np

    from tagseg.data.dataset import read_mask
    from tagseg.data.reading import read_dataset

    shutil.copytree(tiny_set, tmp_path / "set")
    data = read_dataset(tmp_path / "set")
    lines = ["image,label,xmin,ymin,xmax,ymax"]
    for sample in data.val:
        for tag in sample.tags:
            rows, columns = np.nonzero(read_mask(sample.mask) == tag + 1)
            if len(rows):
                edges = f"{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"
                lines.append(f"{sample.name},{data.classes[tag]},{edges}")
    (tmp_path / "set/boxes.csv").write_text("\n".join(lines))
    result = tagseg.study("boxes", tmp_path / "set", tiny_run.folder, tmp_path / "out", quiet=True)
    rows = {row[1] for row in result.tables[0].rows if row[0] == "layercam"}
    assert any("graph cut" in name for name in rows)
    assert any("scaling none" in name for name in rows)
    assert all(0 <= value <= 100 for row in result.tables[0].rows for value in row[2:] if value is not None)
    told: dict[str, Any] = {"methods": ["layercam", "cam"], "compat": "official", "quiet": True}
    official = tagseg.study("boxes", tmp_path / "set", tiny_run.folder, tmp_path / "official", **told)
    assert official.tables[0].columns == ("method", "layers", "loc1", "loc5", "gt-known")
    assert {row[0] for row in official.tables[0].rows} == {"layercam", "cam"}


def test_ten_crops_of_a_classifier_are_the_sums_of_its_maps(tiny_run: Any, tiny_set: Path):
    import torch

    from tagseg.attribution import LayerCAM
    from tagseg.attribution.crops import paste_crops
    from tagseg.attribution.fusion import resize
    from tagseg.data.images import read_image
    from tagseg.data.reading import read_dataset
    from tagseg.explaining.classifiers import load_classifier
    from tagseg.explaining.crops import TenCrops
    from tagseg.explaining.explainer import Explainer

    classifier = load_classifier(tiny_run.folder)
    crops = TenCrops(Explainer(classifier, ["gradcam", "layercam"], "stages"))
    photos = [read_image(sample.image) for sample in read_dataset(tiny_set).train[:2]]
    images, classes = crops.classifier.images(photos), torch.tensor([[0, 2], [1, 1]])
    assert images.shape[2] == round(classifier.side * 256 / 224)
    _, _, found = crops(images, classes)
    layer = LayerCAM(classifier.model, [found[0]["layercam"].layers[-1]])
    size = (classifier.side, classifier.side)
    alone = paste_crops(lambda x, c: resize(layer.layer_maps(x, c)[0], size), images, classes, classifier.side)
    for expected, maps in zip(alone, found, strict=True):
        torch.testing.assert_close(maps["layercam"].maps[-1], expected)
    assert crops.fused(photos[0], [0, 2], "layercam").shape == (2, *photos[0].shape[:2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "box"}, "did you mean 'boxes'"),
        ({"split": "test"}, "train or val"),
        ({"limit": 0}, "at least 1"),
        ({"name": "boxes"}, "needs boxes"),
        ({"methods": ["guided-backprop"]}, "no layers to compare"),
        ({"compat": "official"}, "no published script to follow.*boxes"),
    ],
)
def test_input_that_does_not_do(changes: dict, message: str, tiny_run: Any, tiny_set: Path, tmp_path: Path):
    arguments = {"name": "segmentation", "data": tiny_set, "model": tiny_run.folder, "limit": 2, **changes}
    with pytest.raises(BadInput, match=message):
        tagseg.study(out=tmp_path, quiet=True, **arguments)


def test_a_classifier_of_other_classes(tiny_run: Any, tmp_path: Path):
    folder(tmp_path / "other", "image,labels\na,cat\nb,dog\nc,cat;dog\n")
    with pytest.raises(BadInput, match="give a classifier of this data set"):
        tagseg.study("defects", tmp_path / "other", tiny_run.folder, tmp_path / "out", split="train", quiet=True)


def test_a_run_that_ends_with_its_classifier(tiny_set: Path, tmp_path: Path):
    result = tagseg.fit(
        tiny_set, tmp_path / "run", recipe="cam", settings={**TINY, "train.epochs": 1}, until="train", quiet=True
    )
    assert result.report is None
    assert result.model is None
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.is_dir()) == ["train"]
    assert tagseg.study("defects", tiny_set, tmp_path / "run", tmp_path / "out", limit=2, quiet=True).tables
    with pytest.raises(BadInput, match="did you mean 'train'"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=TINY, until="trian", quiet=True)
