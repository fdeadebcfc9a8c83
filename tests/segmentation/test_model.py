import contextlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import tagseg
from tagseg.networks.backbone import Backbone
from tagseg.segmentation import model as model_file
from tagseg.segmentation.deeplab import DeepLab
from tagseg.segmentation.model import SegmentationModel, load, with_protocol
from tagseg.segmentation.settings import PredictSettings


@pytest.fixture
def model() -> SegmentationModel:
    return SegmentationModel(DeepLab(Backbone("test_resnet", output_stride=16), "aspp", 3), ("a", "b", "c"), 65)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 58, 3), dtype=np.uint8)


def test_a_saved_model_opens_alone_and_says_the_same(
    model: SegmentationModel, photo: np.ndarray, tmp_path: Path, monkeypatch
):
    model.save(tmp_path / "m")
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["model.json", "model.safetensors"]

    def never(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "Unpickler", never)
    monkeypatch.setattr(torch, "load", never)
    opened = load(tmp_path / "m")
    assert opened.classes == ("a", "b", "c")
    np.testing.assert_array_equal(opened.probabilities(photo), model.probabilities(photo))


@pytest.mark.parametrize("size", [(8, 8), (37, 58), (201, 11), (64, 300)])
def test_any_size_comes_back_at_its_size(model: SegmentationModel, size: tuple[int, int]):
    photo = np.zeros((*size, 3), dtype=np.uint8)
    mask = model.predict(photo)
    assert mask.shape == size
    assert mask.dtype == np.uint8
    assert mask.max() <= 3


def test_probabilities_sum_to_one_and_flip_averages(model: SegmentationModel, photo: np.ndarray):
    found = model.probabilities(photo, scales=(0.75, 1.0), flip=True)
    assert found.shape == (4, 37, 58)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-4)
    mirrored = model.probabilities(np.ascontiguousarray(photo[:, ::-1]), scales=(0.75, 1.0), flip=True)
    np.testing.assert_allclose(found, mirrored[..., ::-1], atol=0.02)


def test_the_largest_logits_over_sizes(model: SegmentationModel, photo: np.ndarray):
    """AFA averages a photograph and its mirror image, ToCo adds them; then the largest logit of all sizes counts."""

    def logits(image: np.ndarray, scale: float) -> np.ndarray:
        return np.log(model.probabilities(image, scales=(scale,)))

    for fuse, times in (("max", 0.5), ("max-sum", 1.0)):
        # of a single size nothing is lost by knowing logits only up to a constant of every pixel
        mirrored = logits(np.ascontiguousarray(photo[:, ::-1]), 1.0)[..., ::-1]
        sums = np.exp(times * (logits(photo, 1.0) + mirrored))
        one = model.probabilities(photo, flip=True, fuse=fuse)
        np.testing.assert_allclose(one, sums / sums.sum(axis=0), atol=0.02)
        np.testing.assert_allclose(model.probabilities(photo, scales=(1, 1), flip=True, fuse=fuse), one, atol=1e-5)
        several = model.probabilities(photo, scales=(0.75, 1.0), flip=True, fuse=fuse)
        np.testing.assert_allclose(several.sum(axis=0), 1, atol=1e-4)


def test_its_protocol_is_kept_and_others_may_be_asked_for(
    model: SegmentationModel, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model.save(tmp_path)
    assert "protocol" not in json.loads((tmp_path / "model.json").read_text())
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    protocol = PredictSettings(side="own", scales=(0.5, 1.0), flip=True, crf="deeplab")
    described = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(with_protocol(described, protocol)))
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    opened = load(tmp_path)
    assert opened.protocol == protocol
    told = {"side": "own", "scales": (0.5, 1.0), "flip": True}
    np.testing.assert_array_equal(opened.probabilities(photo), model.probabilities(photo, **told))
    np.testing.assert_array_equal(opened.predict(photo), model.predict(photo, **told, crf="deeplab"))
    plain = {"side": "trained", "scales": (1.0,), "flip": False, "crf": "none"}
    np.testing.assert_array_equal(opened.predict(photo, **plain), model.predict(photo))
    seen = []
    monkeypatch.setattr(type(opened.network), "forward", lambda self, x: seen.append(x.shape[-2:]) or x[:, :1])
    opened.side = 33
    for side, expected in (("own", 58), ("trained", 33), (129, 129)):
        with contextlib.suppress(Exception):
            opened.probabilities(photo, side=side, scales=(1.0,))
        assert abs(max(seen[-1]) - expected) < 16, side
    assert with_protocol(with_protocol(described, protocol), PredictSettings()) == described
    with pytest.raises(tagseg.BadInput, match="did you mean 'deeplab'"):
        model.predict(photo, crf="deplab")
    with pytest.raises(tagseg.BadInput, match="'scales' cannot be"):
        model.predict(photo, scales=())


def test_paths_pictures_and_arrays_are_the_same_to_it(model: SegmentationModel, photo: np.ndarray, tmp_path: Path):
    Image.fromarray(photo).save(tmp_path / "p.png")
    expected = model.predict(photo)
    content = (tmp_path / "p.png").read_bytes()
    for image in (tmp_path / "p.png", str(tmp_path / "p.png"), Image.fromarray(photo), content):
        np.testing.assert_array_equal(model.predict(image), expected)


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 2), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((0, 4, 3))])
def test_arrays_of_another_kind_are_refused(model: SegmentationModel, bad: np.ndarray):
    with pytest.raises(tagseg.BadInput, match=r"\(H, W, 3\) uint8"):
        model.predict(bad)


def test_damaged_models_are_named(model: SegmentationModel, tmp_path: Path):
    with pytest.raises(tagseg.BadInput, match="no trained model here"):
        load(tmp_path)
    model.save(tmp_path)
    weights, described = tmp_path / "model.safetensors", tmp_path / "model.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:100])
    with pytest.raises(tagseg.BadInput, match="damaged"):
        load(tmp_path)
    weights.write_bytes(whole)
    content = json.loads(described.read_text())
    described.write_text(json.dumps({**content, "classes": ["a"]}))
    with pytest.raises(tagseg.BadInput, match="damaged or do not belong together"):
        load(tmp_path)
    for part, key, value, words in (
        ("input", "side", None, r"'input\.side' cannot be"),
        ("input", "side", -5, r"'input\.side' cannot be"),
        ("input", "side", 10**18, r"'input\.side' cannot be"),
        ("input", "mean", [0.5, 0.5], r"'input\.mean\.2' cannot be"),
        ("input", "std", [0, 1, 1], r"'input\.std\.0' cannot be"),
        ("architecture", "head", "none", "no head 'none'"),
        ("architecture", "backbone", 5, r"'architecture\.backbone' cannot be"),
    ):
        described.write_text(json.dumps({**content, part: {**content[part], key: value}}))
        with pytest.raises(tagseg.BadInput, match=words):
            load(tmp_path)
    described.write_text("[]")
    with pytest.raises(tagseg.BadInput, match="cannot be"):
        load(tmp_path)
    state = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in load_file(weights).items()}
    save_file(state, weights)
    described.write_text(json.dumps(content))
    with pytest.raises(tagseg.BadInput, match="not finite"):
        load(tmp_path)
    weights.write_bytes(whole)
    described.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(tagseg.BadInput, match="format 99"):
        load(tmp_path)


@pytest.mark.parametrize("how", [{}, {"scales": (0.75, 1.0), "flip": True}, {"scales": (0.75, 1.0), "fuse": "max"}])
def test_large_photographs_are_labelled_in_bands(
    model: SegmentationModel, photo: np.ndarray, how: dict, monkeypatch: pytest.MonkeyPatch
):
    whole = model.predict(photo, **how)
    monkeypatch.setattr(model_file, "_AT_ONCE", 100)
    monkeypatch.setattr(model_file, "_BAND", 500)
    assert (model.predict(photo, **how) != whole).mean() < 1e-3


def test_of_large_photographs_a_smaller_copy_is_sharpened(
    model: SegmentationModel, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    whole = model.predict(photo, crf="deeplab")
    monkeypatch.setattr(model_file, "_CRF_PIXELS", photo.shape[0] * photo.shape[1] // 4)
    monkeypatch.setattr(model_file, "_BAND", 500)
    small = model.predict(photo, crf="deeplab")
    assert small.shape == whole.shape
    assert set(np.unique(small)) <= set(range(len(model.classes) + 1))
    assert (small == whole).mean() > 0.8
