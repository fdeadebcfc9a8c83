"""SAM in ONNX files: what its encoder is given, what its decoder is asked, and the files that come of it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tagseg
from tagseg.data.images import read_image
from tagseg.errors import BadInput
from tagseg.masks.segments import read_segments

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter that draws what a network does
SIDE = 64
NAMES = ["image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size"]


class Encoder(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(image, 16).mean(dim=1, keepdim=True)


class Decoder(torch.nn.Module):
    """Four discs around the first click, the first of which is meant for many clicks; all believed alike."""

    def forward(self, embeddings, coords, labels, mask, has_mask, size):
        height, width = size[0].long(), size[1].long()
        scale = SIDE / torch.maximum(size[0], size[1])
        x = (torch.arange(width) + 0.5) * scale - coords[:, 0, 0, None, None, None]
        y = (torch.arange(height)[:, None] + 0.5) * scale - coords[:, 0, 1, None, None, None]
        radius = torch.tensor([30.0, 6.0, 10.0, 20.0])[:, None, None]
        logits = 50 * (radius - (x**2 + y**2).sqrt()) + 0 * (embeddings.mean() + mask.mean() + has_mask.mean())
        believed = torch.tensor([[0.99, 0.91, 0.5, 0.93]]) * (labels[:, :1] == 1) * (labels[:, 1:] == -1)
        return logits, believed, logits


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    folder = tmp_path_factory.mktemp("sam")
    torch.onnx.export(
        Encoder(), (torch.zeros(1, 3, SIDE, SIDE),), str(folder / "encoder.onnx"), dynamo=False, input_names=["image"]
    )
    given = (
        torch.zeros(1, 1, 4, 4),
        torch.zeros(1, 2, 2),
        torch.ones(1, 2),
        torch.zeros(1, 1, 16, 16),
        torch.zeros(1),
        torch.tensor([30.0, 40.0]),
    )
    torch.onnx.export(
        Decoder(),
        given,
        str(folder / "decoder.onnx"),
        dynamo=False,
        input_names=NAMES,
        output_names=["masks", "iou_predictions", "low_res_masks"],
        dynamic_axes={"point_coords": {0: "batch", 1: "points"}, "point_labels": {0: "batch", 1: "points"}},
    )
    return folder


def test_segments_of_a_folder(files: Path, tiny_set: Path, tmp_path: Path):
    photos = sorted((tiny_set / "images").iterdir())[:2]
    out = tmp_path / "segments"
    written = tagseg.cut_segments(photos, files / "encoder.onnx", files / "decoder.onnx", out, points=3, quiet=True)
    assert [p.name for p in written] == [f"{p.stem}.json" for p in photos]
    height, width = read_image(photos[0]).shape[:2]
    segments = read_segments(out, photos[0].stem, (height, width))
    scale = SIDE / max(height, width)
    y, x = (np.mgrid[:height, :width] + 0.5) * scale
    for segment in segments:  # every one a disc of one of two radii around a point of the grid
        near = [
            np.mean(segment == (np.hypot(x - a * width * scale, y - b * height * scale) < radius))
            for a in (1 / 6, 0.5, 5 / 6)
            for b in (1 / 6, 0.5, 5 / 6)
            for radius in (6, 20)
        ]
        assert max(near) > 0.99
    believed = [s["predicted_iou"] for s in json.loads(written[0].read_text())]
    assert believed == sorted(believed, reverse=True)
    assert {round(b, 2) for b in believed} == {0.91, 0.93}


def test_what_is_there_is_kept(files: Path, tiny_set: Path, tmp_path: Path):
    photos = sorted((tiny_set / "images").iterdir())[:2]
    (tmp_path / f"{photos[0].stem}.json").write_text("[]")
    for encoder in (files / "encoder.onnx", tmp_path / "nothing.onnx"):  # the second time no network is needed
        tagseg.cut_segments(photos, encoder, files / "decoder.onnx", tmp_path, points=1, quiet=True)
    assert (tmp_path / f"{photos[0].stem}.json").read_text() == "[]"


def test_files_that_are_no_sam(files: Path, tiny_set: Path, tmp_path: Path):
    photo = next((tiny_set / "images").iterdir())
    with pytest.raises(BadInput, match="no such file; give SAM's encoder"):
        tagseg.cut_segments(photo, tmp_path / "none.onnx", files / "decoder.onnx", tmp_path / "out")
    with pytest.raises(BadInput, match="no input image_embeddings"):
        tagseg.cut_segments(photo, files / "encoder.onnx", files / "encoder.onnx", tmp_path / "out")
    with pytest.raises(BadInput, match="export SAM's image encoder"):
        tagseg.cut_segments(photo, files / "decoder.onnx", files / "decoder.onnx", tmp_path / "out")
    shutil.copy(photo, broken := tmp_path / "broken.onnx")
    with pytest.raises(BadInput, match=r"broken\.onnx: this decoder cannot be read"):
        tagseg.cut_segments(photo, files / "encoder.onnx", broken, tmp_path / "out")
    with pytest.raises(BadInput, match="points is 0"):
        tagseg.cut_segments(photo, files / "encoder.onnx", files / "decoder.onnx", tmp_path / "out", points=0)
    assert not (tmp_path / "out").exists()
