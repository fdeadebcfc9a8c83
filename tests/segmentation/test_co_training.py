from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tagseg
from tagseg.data.coupled_views import CoupledViews
from tagseg.data.loading import normalise, to_pixels
from tagseg.data.photometry import distort_strongly
from tagseg.data.reading import read_dataset
from tagseg.data.views import ViewSpec
from tagseg.networks.backbone import Backbone
from tagseg.pipeline import training
from tagseg.pipeline.training import Place, Schedule, Sharing
from tagseg.progress import Reporter
from tagseg.segmentation.co_training import CoTraining, Mixed, border_of, mix_pairs, some_classes
from tagseg.segmentation.deeplab import DeepLab, DeepLabPair
from tagseg.segmentation.model import SegmentationModel, load
from tagseg.segmentation.settings import SegmentSettings
from tests.conftest import TINY, interrupted_in


@pytest.fixture
def pair() -> DeepLabPair:
    torch.manual_seed(0)
    first, second = (DeepLab(Backbone("test_resnet", "random", 16), "aspp", 3) for _ in range(2))
    return DeepLabPair(first, second)


def test_every_photograph_once_and_in_other_pairs(tiny_set: Path):
    data = read_dataset(tiny_set)
    samples = data.train[:5]
    spec = ViewSpec(side=49, scales=(0.8, 1.6), seed=3, masks=lambda sample: sample.mask)
    views = CoupledViews(samples, len(data.classes), Backbone("test_resnet"), spec)
    assert len(views) == 3
    seeds = {epoch: [views[epoch, n]["seed"].tolist() for n in range(3)] for epoch in (0, 1)}
    for epoch, pairs in seeds.items():
        drawn = [seed for both in pairs for seed in both]
        assert len(set(drawn)) == 5
        assert drawn[0] == drawn[5]  # the pair that the last one lacks begins anew
        assert pairs == [views[epoch, n]["seed"].tolist() for n in range(3)]
    assert not {seed for both in seeds[0] for seed in both} & {seed for both in seeds[1] for seed in both}
    item = views[0, 1]
    assert item["image"].shape == (2, 3, 49, 49)
    assert item["mask"].shape == (2, 49, 49)
    assert item["inside"].shape == (2, 4)


def test_half_of_the_classes_without_background():
    labels = torch.zeros(4, 4, dtype=torch.int64)
    labels[0], labels[1], labels[2], labels[3, 0] = 1, 2, 3, 255
    found = {tuple(labels[some_classes(labels, np.random.default_rng(n))].unique().tolist()) for n in range(30)}
    assert found == {(1, 2), (1, 3), (2, 3)}
    assert not some_classes(torch.zeros_like(labels), np.random.default_rng(0)).any()
    assert not some_classes(torch.full_like(labels, 255), np.random.default_rng(0)).any()


def test_the_border_lies_on_both_sides():
    region = torch.zeros(7, 7, dtype=torch.bool)
    region[2:5, 2:5] = True
    expected = torch.zeros_like(region)
    expected[1:6, 1:6] = True
    expected[3, 3] = False
    torch.testing.assert_close(border_of(region), expected)
    assert not border_of(torch.ones_like(region)).any()
    assert not border_of(torch.zeros_like(region)).any()


def test_what_is_pasted_is_photograph_and_what_is_padded_teaches_nothing(pair: DeepLabPair):
    torch.manual_seed(1)
    images, masks = torch.randn(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64)
    masks[1, :8, :8] = 2
    inside = torch.ones(2, 32, 32, dtype=torch.bool)
    inside[0, :16] = False
    masks[0, :16] = 255
    shown = mix_pairs(images, masks, inside, None, 1.0, [np.random.default_rng(n) for n in range(2)])
    assert shown.inside[0, :8, :8].all()
    assert not shown.inside[0, 8:16].any()
    torch.testing.assert_close(shown.images[0, :, :8, :8], images[1, :, :8, :8])
    module = CoTraining(pair.eval(), SegmentSettings(network="beco", loss_stride=1), 10)
    doubted = Mixed(images, torch.full_like(masks, 255), torch.zeros_like(inside), torch.zeros_like(inside))
    assert module.loss(images, doubted).item() == 0
    whole = Mixed(images, doubted.masks, torch.ones_like(inside), doubted.border)
    assert module.loss(images, whole).item() > 0


def test_networks_learn_from_each_other_and_not_from_themselves(pair: DeepLabPair):
    """Where nothing is labelled the target of one is what the other says, and passes no gradient."""
    images = torch.randn(1, 3, 32, 32)
    nothing = torch.full((1, 32, 32), 255)
    module = CoTraining(pair.eval(), SegmentSettings(network="beco", loss_stride=1), 10)
    shown = Mixed(images, nothing, torch.ones(1, 32, 32, dtype=torch.bool), torch.zeros(1, 32, 32, dtype=torch.bool))
    said = [one.logits_at(images, (32, 32)).argmax(dim=1) for one in pair.both]
    expected = sum(
        torch.nn.functional.cross_entropy(one.logits_at(images, (32, 32)), other)
        for one, other in zip(pair.both, reversed(said), strict=True)
    )
    torch.testing.assert_close(module.loss(images, shown), expected)


def test_colours_change_and_come_back_as_pixels():
    photo = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    backbone = Backbone("test_resnet")
    np.testing.assert_array_equal(to_pixels(normalise(photo, backbone)[None], backbone)[0], photo)
    found = [distort_strongly(photo, np.random.default_rng(n)) for n in range(40)]
    assert all(one.shape == photo.shape and one.dtype == np.uint8 for one in found)
    same = sum(np.array_equal(one, photo) for one in found)
    grey = sum(np.ptp(one, axis=-1).max() == 0 for one in found)
    assert 0 < same < 12
    assert 2 < grey < 16
    np.testing.assert_array_equal(distort_strongly(photo, np.random.default_rng(7)), found[7])


def test_the_pair_is_saved_whole_and_averages(pair: DeepLabPair, tmp_path: Path):
    photo = np.random.default_rng(0).integers(0, 256, (37, 58, 3), dtype=np.uint8)
    model = SegmentationModel(pair, ("a", "b", "c"), 65)
    model.save(tmp_path)
    opened = load(tmp_path)
    np.testing.assert_array_equal(opened.probabilities(photo), model.probabilities(photo))
    image = torch.randn(1, 3, 64, 48)
    torch.testing.assert_close(pair(image), sum(one(image) for one in pair.both) / 2)


def test_a_run_with_two_networks(tiny_set: Path, tmp_path: Path):
    settings: dict[str, Any] = {**TINY, "segment.network": "beco", "segment.batch_size": 6, "masks.keep": 0.5}
    run = tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=settings, quiet=True)
    assert run.metrics.val.segmentation is not None
    model = tagseg.load(run.folder)
    assert isinstance(model.network, DeepLabPair)
    first, second = (dict(one.named_parameters()) for one in model.network.both)
    assert any(not torch.equal(value, second[key]) for key, value in first.items())
    more = {**settings, "weights": str(run.folder)}
    tagseg.fit(tiny_set, tmp_path / "more", recipe="cam", settings=more, quiet=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"segment.batch_size": 5}, "batch_size 5 must be even"),
        ({"segment.multi_scale": True}, "set multi_scale=false"),
        ({"segment.beco.sure": 1.5}, "segment.beco.sure"),
    ],
)
def test_what_does_not_go_together(settings: dict[str, Any], words: str, tiny_set: Path, tmp_path: Path):
    with pytest.raises(tagseg.BadInput, match=words):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings={**TINY, "segment.network": "beco", **settings})


def test_what_networks_say_of_padding_is_not_pasted():
    images, masks = torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)
    inside = torch.ones(2, 8, 8, dtype=torch.bool)
    inside[1, :, 4:] = False
    online = torch.zeros_like(masks)
    online[1, :, 2:] = 3
    shown = mix_pairs(images, masks, inside, online, 1.0, [np.random.default_rng(n) for n in range(2)])
    assert (shown.masks[0, :, 2:4] == 3).all()
    torch.testing.assert_close(shown.images[0, :, :, 4:], images[0, :, :, 4:])
    assert (shown.masks[0, :, 4:] == 0).all()
    assert shown.inside[0].all()


def test_a_head_that_attends_is_not_local():
    heads = {head: DeepLab(Backbone("test_resnet", "random", 16), head, 3) for head in ("aspp", "segmenter")}
    assert {head: network.local for head, network in heads.items()} == {"aspp": True, "segmenter": False}


def test_clipping_needs_whole_batches(tiny_set: Path, tmp_path: Path):
    own = {**TINY, "segment.clip_from": 1.2, "accumulate": 2}
    with pytest.raises(tagseg.BadInput, match=r"accumulate 2: segment.clip_from needs whole batches"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=own)


BECO: dict[str, Any] = {
    **TINY,
    "segment.network": "beco",
    "segment.batch_size": 4,
    "segment.beco": {"warmup": 0.3},
    "masks.keep": 0.5,
}


def test_what_was_interrupted_ends_with_the_same_bytes(tiny_set: Path, tmp_path: Path):
    """Online labels, pairs and colours of an epoch depend on nothing that came before it."""
    tagseg.fit(tiny_set, tmp_path / "whole", recipe="cam", settings=BECO, quiet=True)
    with interrupted_in(CoTraining, epoch=1):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=BECO, quiet=True)
    tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings=BECO, quiet=True)
    weights = [(tmp_path / name / "segment/model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_convolution_of_both_learns(accumulate: int, tiny_set: Path, tmp_path: Path):
    """After labels were made without gradients, and where a batch comes in parts."""
    before = {key: value.clone() for key, value in _segmenter(tiny_set, tmp_path / "one", 1, accumulate).items()}
    after = _segmenter(tiny_set, tmp_path / "three", 3, accumulate)
    learnt = [key for key, value in after.items() if value.ndim == 4 and not torch.equal(value, before[key])]
    assert {key.split(".")[1] for key in learnt} == {"0", "1"}
    assert all(key in learnt for key, value in after.items() if value.ndim == 4)


def _segmenter(data: Path, folder: Path, epochs: int, accumulate: int) -> dict[str, torch.Tensor]:
    settings = {**BECO, "segment.epochs": epochs, "segment.beco": {"warmup": 0.0}, "accumulate": accumulate}
    tagseg.fit(data, folder, recipe="cam", settings=settings, quiet=True)
    return tagseg.load(folder).network.to("cpu").state_dict()


def test_pairs_that_stay_together_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(training, "_train", lambda *_: SimpleNamespace(epochs=[]))
    nothing: Any = None
    schedule = Schedule(1, 1, seed=0, together=2)
    assert training.train(nothing, nothing, schedule, Place(tmp_path, "segment", Reporter(), Sharing(2))) == []
    assert (
        "for there are no more to share in a batch of 2 photographs, 2 of which stay together"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("count", [1, 3])
def test_few_photographs(count: int, tiny_set: Path):
    data = read_dataset(tiny_set)
    spec = ViewSpec(side=49, scales=(0.8, 1.6), seed=0, masks=lambda sample: sample.mask)
    views = CoupledViews(data.train[:count], len(data.classes), Backbone("test_resnet"), spec)
    assert len(views) == (count + 1) // 2
    assert all(views[0, number]["image"].shape == (2, 3, 49, 49) for number in range(len(views)))
