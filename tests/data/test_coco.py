import json
from pathlib import Path

import numpy as np
import pytest

from tagseg.data.dataset import read_mask
from tagseg.data.reading import FileFacts, inspect_files, read_dataset
from tests.data.trees import photo

pytest.importorskip("pycocotools")


def square(x: int, y: int, side: int) -> list[list[int]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def coco(root: Path) -> Path:
    images = [{"id": n, "file_name": f"COCO_train2014_{n:012d}.jpg", "height": 20, "width": 30} for n in (1, 2, 3)]
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 90, "area": 256, "iscrowd": 0, "segmentation": square(2, 2, 16)},
        {"id": 2, "image_id": 1, "category_id": 3, "area": 16, "iscrowd": 0, "segmentation": square(6, 6, 4)},
        {
            "id": 3, "image_id": 3, "category_id": 3, "area": 60, "iscrowd": 1,
            "segmentation": {"size": [20, 30], "counts": [0, 60, 540]},
        },
    ]  # fmt: skip
    categories = [{"id": 90, "name": "toothbrush"}, {"id": 3, "name": "car"}]
    (root / "annotations").mkdir()
    (root / "annotations/instances_train2014.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    for image in images:
        photo(root / "train2014" / str(image["file_name"]))
    return root


def test_tags_and_masks(tmp_path: Path):
    data = read_dataset(coco(tmp_path))
    assert data.classes == ("car", "toothbrush")
    assert [s.name[-1] for s in data.train] == ["1", "3"]  # the second has no class
    assert [s.tags for s in data.train] == [(0, 1), (0,)]
    mask = read_mask(data.train[0].mask)
    assert mask.shape == (20, 30)
    assert mask[8, 8] == 1  # the small car lies on the large brush
    assert mask[3, 3] == 2
    assert mask[19, 29] == 0
    crowd = read_mask(data.train[1].mask)
    assert (crowd == 1).sum() == 60
    np.testing.assert_array_equal(crowd[:, :3], 1)
    assert inspect_files(data, FileFacts())[0].problems == ()


def test_a_missing_photograph_is_named(tmp_path: Path):
    coco(tmp_path)
    (tmp_path / "train2014/COCO_train2014_000000000003.jpg").unlink()
    data = read_dataset(tmp_path)
    assert [p.sample for p in data.problems] == ["COCO_train2014_000000000003"]
    assert len(data.train) == 1
