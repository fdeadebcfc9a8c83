"""KTSE and its erasing ancestors, AEFT and ACoL."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import tagseg
from tagseg.data.dataset import multi_hot
from tagseg.grid import Grid
from tagseg.masks.rescaling import foreground, normalised
from tagseg.methods.acol import ACoL, ACoLSettings
from tagseg.methods.aeft import AEFT, AEFTSettings, attract_loss, repulse_loss
from tagseg.methods.ktse import KTSE, KTSESettings
from tagseg.methods.ktse_images import SIDES, Side, joined, own_part, random_box, with_box
from tagseg.methods.ktse_losses import global_alignment, inter_loss, label_maps, official_label_loss, rise_loss
from tagseg.methods.pyramid import schedule_end
from tagseg.pipeline.settings import resolve
from tagseg.pipeline.training import Schedule
from tagseg.segmentation.training import segmentation_loss
from tests.conftest import TINY, names


def built(kind: Any = KTSE, backbone: str = "test_resnet", classes: int = 3, **settings: Any) -> Any:
    warm = {} if kind is ACoL else {"warmup": 0.0}
    return kind(backbone, "random", names(classes), kind.Settings(**{"side": 49, **warm, **settings}), 10)


def batch_of(network: Any, tags: list[list[float]]) -> dict[str, torch.Tensor]:
    side, count = network.backbone.grid.fit(49, 49)[0], len(tags)
    return {
        "image": torch.randn(count, 3, side, side),
        "tags": torch.tensor(tags),
        "inside": torch.tensor([[0, side - 3, 2, side]] * count),
        "partner": torch.randn(count, 3, side, side),
        "partner_tags": torch.tensor(tags).roll(1, 0),
    }


def step(network: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    network.log = lambda *_: None
    return network.training_step(batch, 0)


def learns(network: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of a step, which must all be finite."""
    loss = step(network, batch)
    loss.backward()
    assert torch.isfinite(loss)
    gradients = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    return gradients


# maps


def test_normalisations():
    maps = torch.tensor([[[[4.0, 2.0, -1.0]], [[-3.0, -1.0, -2.0]], [[4.0, 2.0, 1.0]]]])
    found = normalised(maps)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([[1.0, 0.5, 0], [0, 0, 0], [1, 0.5, 0.25]]))
    torch.testing.assert_close(
        normalised(maps, "official")[0, :, 0],
        torch.tensor([[1.0, 0.5, 0], [0, 0, 0], [1, 1 / 3, 0]]),
        atol=1e-4,
        rtol=0,
    )
    official = label_maps(maps, "official")[0, 1, 0]
    torch.testing.assert_close(official, torch.tensor([3.0, 1, 2]), atol=1e-3, rtol=0)  # the sign turns
    assert torch.equal(label_maps(maps, "paper"), found)


def test_foreground_is_the_strongest_tag():
    maps = torch.rand(3, 4, 5, 6) + 0.1
    tags = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    expected = (normalised(maps) * tags[:, :, None, None]).amax(dim=1, keepdim=True)
    torch.testing.assert_close(foreground(maps, tags), expected)
    large = F.interpolate(maps, size=(9, 11), mode="bilinear", align_corners=True)
    grown = foreground(maps, tags, size=(9, 11), grid=Grid(1, corners=True))
    torch.testing.assert_close(grown, foreground(large, tags))
    assert foreground(maps, torch.zeros(3, 4), size=(9, 11)).shape == (3, 1, 9, 11)


# losses


def test_only_what_is_lower_is_learnt_and_only_of_tags():
    teacher, learner = torch.tensor([[[[2.0, 0.0]], [[5.0, 5.0]]]]), torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]]])
    tags = torch.tensor([[1.0, 0.0]])
    assert rise_loss(teacher, learner, tags).item() == pytest.approx(1 / 4)
    assert rise_loss(teacher, learner, tags, margin=0.6).item() == pytest.approx(0.4 / 4)


def test_transfer_goes_both_ways():
    teacher, learner = torch.full((1, 1, 2, 2), 2.0, requires_grad=True), torch.ones(1, 1, 2, 2, requires_grad=True)
    rise_loss(teacher, learner, torch.ones(1, 1)).backward()
    assert (teacher.grad > 0).all()
    assert (learner.grad < 0).all()


def test_global_alignment_by_hand():
    maps, erased = torch.tensor([[[[4.0, -2]], [[1, 1]]]]), torch.tensor([[[[1.0, 0]], [[9, 9]]]])
    assert global_alignment(maps, erased, torch.tensor([[1.0, 0]])).item() == pytest.approx(1.5 / 2)


def test_label_losses_without_labels_are_zero():
    scores, tags = torch.rand(2, 4, 3, 3, requires_grad=True), torch.tensor([[1.0, 1, 0], [0, 0, 1]])
    nothing = torch.full((2, 3, 3), 255)
    for labels in (nothing, nothing.clone().fill_(0), nothing.clone().fill_(2)):
        losses = [segmentation_loss(scores, labels), *official_label_loss(scores, labels, tags)]
        assert all(torch.isfinite(loss) for loss in losses)
        for present, loss in ((0, losses[1]), (2, losses[2])):
            assert bool(loss > 0) == bool((labels == present).any())


def test_the_published_code_learns_classes_from_images_with_one_tag():
    scores, labels = torch.rand(2, 3, 1, 2), torch.tensor([[[1, 2]], [[2, 0]]])
    tags = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    entropy = F.cross_entropy(scores, labels, reduction="none")
    background, classes = official_label_loss(scores, labels, tags)
    torch.testing.assert_close(background, entropy[1, 0, 1])
    torch.testing.assert_close(classes, entropy[1, 0, 0])
    torch.testing.assert_close(official_label_loss(scores, labels)[1], entropy[labels > 0].mean())
    torch.testing.assert_close(segmentation_loss(scores, labels), entropy.mean())


def test_the_second_class_is_pushed_down():
    scores = torch.tensor([[[[3.0]], [[2.0]], [[1.0]]]]).repeat(2, 1, 1, 1).requires_grad_()
    tags, seen = torch.tensor([[1.0, 1, 0], [1, 0, 0]]), torch.ones(2, 1, 1, 1, dtype=torch.bool)
    loss = inter_loss(scores, tags, seen)
    loss.backward()
    assert loss.item() == -1
    assert scores.grad[0].flatten().tolist() == [0, 1, 0]
    assert not scores.grad[1].any()
    assert inter_loss(scores, tags, ~seen).item() == 0
    assert inter_loss(torch.rand(2, 1, 1, 1), torch.ones(2, 1), seen).item() == 0  # one class


def test_attraction_and_repulsion():
    pyramid = torch.tensor([[[[1.0, 0.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[0.0, 1.0]]]])
    tags = torch.eye(2)
    assert attract_loss(pyramid, pyramid, tags).item() == 0
    assert attract_loss(pyramid, torch.zeros_like(pyramid), tags).item() == pytest.approx(1 / 4)
    everywhere = torch.ones(2, 1, 1, 2, dtype=torch.bool)
    # both images have means of (1/2, 0) and (0, 1/2), which are 1/2 apart, squared
    assert repulse_loss(pyramid, everywhere, tags, margin=0.75).item() == pytest.approx(0.25)
    assert repulse_loss(pyramid, everywhere, tags, margin=0.5).item() == 0
    assert repulse_loss(pyramid, everywhere, tags, margin=0.75, fewest=3).item() == 0
    assert repulse_loss(pyramid, ~everywhere, tags, margin=0.75).item() == 0
    assert repulse_loss(pyramid, everywhere, torch.ones(2, 2), margin=0.75).item() == 0  # they share a class


# joined images


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("side", SIDES)
def test_cells_of_joined_images_lie_where_they_lay(name: str, side: Side):
    """By the geometry that `Backbone` describes, whether a side is a multiple of the stride or not."""
    network = built(backbone=name, side=64, output_stride=None)
    stride, length = network.backbone.stride, network.backbone.grid.fit(64, 64)[0]
    grid = network.backbone.grid.cells(length, length)

    def cells(image: torch.Tensor) -> torch.Tensor:
        return image[:, :, ::stride, ::stride] if network.backbone.grid.corners else F.avg_pool2d(image, stride)

    images, partners = torch.randn(2, 1, length, length), torch.randn(2, 1, length, length)
    both = joined(images, partners, side, stride)
    assert both.shape[2:] == network.backbone.grid.fit(*both.shape[2:])
    torch.testing.assert_close(own_part(cells(both), side, grid), cells(images))
    opposite = {"above": "below", "below": "above", "left": "right", "right": "left"}[side]
    torch.testing.assert_close(own_part(cells(both), opposite, grid), cells(partners))
    assert network.class_maps(torch.randn(1, 3, *both.shape[2:])).shape[2:] == cells(both).shape[2:]


def test_boxes_of_cutmix():
    shares = []
    for _ in range(300):
        y0, y1, x0, x1 = random_box((11, 7))
        assert 0 <= y0 <= y1 <= 11
        assert 0 <= x0 <= x1 <= 7
        shares.append((y1 - y0) * (x1 - x0) / 77)
    assert 0.1 < np.mean(shares) < 0.5
    images, partners = torch.zeros(1, 3, 33, 33), torch.ones(1, 3, 33, 33)
    mixed = with_box(images, partners, (1, 2, 0, 2), 16)
    assert mixed.sum() == 3 * 16 * 32
    assert mixed[0, :, 16:32, :32].all()


# the networks

TAGS: list[list[list[float]]] = [
    [[1, 0, 1], [0, 1, 0], [0, 0, 0]],  # odd
    [[1, 1, 0], [1, 1, 1]],  # no image with a single tag
    [[0, 1, 0]],  # a batch of one
    [[0, 0, 0]],  # nothing at all
]
VARIANTS: list[tuple[Any, dict[str, Any]]] = [
    *((KTSE, {"erasing": how, "compat": c}) for how in ("concatenate", "cutmix") for c in ("paper", "official")),
    (KTSE, {"erasing": "none", "alignment": "none"}),
    (KTSE, {"erasing": "none", "regularisation": False}),
    (KTSE, {"compat": "official", "regularisation": False}),
    (KTSE, {"alignment": "global"}),
    (KTSE, {"alignment": "local"}),
    (KTSE, {"warmup": 1.0}),
    *((AEFT, {"compat": c}) for c in ("paper", "official")),
    (ACoL, {}),
]


@pytest.mark.parametrize(("kind", "settings"), VARIANTS, ids=str)
@pytest.mark.parametrize("tags", TAGS, ids=["odd", "several", "one", "none"])
def test_every_variant_learns_from_any_batch(kind: Any, settings: dict[str, Any], tags: list[list[float]]):
    network = built(kind, **settings)
    learns(network, batch_of(network, tags))


def test_no_background_anywhere():
    """Thresholds of 0 call every pixel an object."""
    network = built(high=0.0, low=0.0)
    learns(network, batch_of(network, [[1, 1, 0], [1, 1, 1]]))


def test_one_class():
    for kind in (KTSE, AEFT, ACoL):
        network = built(kind, classes=1)
        learns(network, {**batch_of(network, [[1], [0]])})


def test_the_background_learns_only_after_the_warm_up():
    for warmup, learnt in ((1.0, False), (0.0, True)):
        network = built(warmup=warmup)
        gradients = learns(network, batch_of(network, TAGS[0]))
        assert bool(gradients["classifier.weight"][0].any()) == learnt


def test_every_part_teaches():
    torch.manual_seed(0)
    losses = {}
    for name, settings in (
        ("all", {}),
        ("erasing", {"erasing": "none"}),
        ("regularisation", {"regularisation": False}),
        ("alignment", {"alignment": "none"}),
        ("global", {"alignment": "local"}),
        ("local", {"alignment": "global"}),
    ):
        torch.manual_seed(1)
        network = built(**settings)
        batch = batch_of(network, TAGS[0])
        torch.manual_seed(2)
        losses[name] = step(network, batch).item()
    assert all(losses[name] < losses["all"] for name in losses if name != "all")


@pytest.mark.parametrize("compat", ["paper", "official"])
def test_transfer_may_go_one_way(compat: str):
    """With nothing else to learn from, what teaches stands still: the tags' gradient is all there is."""
    gradients = []
    for both in (True, False):
        torch.manual_seed(0)
        parts = {"regularisation": False, "alignment": "none", "compat": compat, "synthesised": 1}
        network = built(bidirectional=both, **parts)
        batch = batch_of(network, TAGS[0])
        torch.manual_seed(1)
        gradients.append(learns(network, batch)["reduce.weight"].clone())
    assert not torch.allclose(*gradients)


def test_only_the_first_images_meet_their_partner():
    network = built(synthesised=1, regularisation=False, alignment="none")
    batch = batch_of(network, TAGS[0])
    seen: list[tuple[int, ...]] = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    step(network, batch)
    assert [shape[0] for shape in seen] == [3, 1]
    assert max(seen[1][2:]) > 49


def test_padding_has_no_label():
    for compat, expected in (("paper", True), ("official", False)):
        network = built(compat=compat)
        batch = batch_of(network, TAGS[0])
        labels = network.own_labels(batch, network.all_maps(batch["image"]))
        assert labels.shape == (3, 49, 49)
        assert bool((labels[:, -3:] == 255).all()) == expected
        present = set(labels[1].unique().tolist())
        assert present <= {0, 2, 255}  # its tag is class 1
        assert set(labels[2].unique().tolist()) <= {0, 255}


def test_thresholds_follow_the_maps():
    """Small maps are cut low and wide ones high; what is set stays."""
    found = []
    for background in (0.05, 0.5):
        network = built(high="auto", low="auto")
        maps = torch.full((2, 3, 4, 4), background)
        maps[:, :, 0] = 1.0
        network.remember(maps, torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.ones(2, 4, 4))
        assert network.values.sum() == 16  # of the photograph that has a tag
        found.append(network.thresholds())
    assert [high - low for high, low in found] == pytest.approx([0.25, 0.25])
    assert found[1][0] - found[0][0] == pytest.approx(0.225, abs=0.01)
    assert built().thresholds() == (0.3, 0.15)
    wide = built(erase_threshold="auto", regularisation=False)
    wide.remember(maps, torch.tensor([[1.0, 0, 0], [0, 0, 0]]), torch.ones(2, 4, 4))
    assert wide.erased_from() == pytest.approx((1 + wide.cut()) / 2)
    assert wide.cut() == pytest.approx(0.75, abs=0.01)
    assert built().erased_from() == 0.6
    assert resolve("voc/ktse").train.high == 0.3


def test_weights_of_the_label_loss():
    scores, labels = torch.rand(2, 4, 1, 2), torch.tensor([[[1, 0]], [[2, 0]]])
    tags = torch.tensor([[1.0, 1, 0], [0, 1, 0]])
    entropy = F.cross_entropy(scores, labels, reduction="none")[:, 0]
    empty, classes = entropy[:, 1].mean(), entropy[:, 0]
    code = resolve("voc/ktse").train
    published = built(class_weight=code.class_weight, single_tag=code.single_tag)
    torch.testing.assert_close(published.label_loss(scores, labels, tags), empty + 0.0125 * classes[1])
    torch.testing.assert_close(published.label_loss(scores, labels, None), empty + 0.0125 * classes.mean())
    paper = built()
    torch.testing.assert_close(paper.label_loss(scores, labels, None), entropy.mean())
    torch.testing.assert_close(paper.label_loss(scores, labels, tags), (entropy.sum() - classes[0]) / 3)


def test_the_teacher_makes_the_labels():
    network = built(teacher_decay=0.9)
    network.setup("fit")
    batch = batch_of(network, TAGS[0])
    before = network.own_labels(batch, network.all_maps(batch["image"]))
    with torch.no_grad():
        network.classifier.weight.neg_()
    assert torch.equal(network.own_labels(batch, network.all_maps(batch["image"])), before)
    assert built(teacher_decay=0.0).begin_average() is None


def test_maps_and_logits_of_acol():
    network = built(ACoL)
    images = torch.randn(2, 3, 49, 49)
    scores = network.score_maps(images)
    assert scores.shape == (2, 6, 4, 4)
    maps, logits = network.maps_and_logits(scores)
    first, second = scores.chunk(2, dim=1)
    torch.testing.assert_close(maps, torch.maximum(normalised(first), normalised(second)))
    torch.testing.assert_close(logits, first.mean(dim=(2, 3)))


def test_the_second_classifier_does_not_see_what_the_first_found():
    network = built(ACoL).eval()
    images, tags = torch.randn(1, 3, 49, 49), torch.tensor([[1.0, 0, 0]])
    seen: list[torch.Tensor] = []
    network.classifier[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    maps, _ = network.branches(images, tags)
    found = foreground(maps, tags)[0, 0] >= 0.6
    assert found.any()
    assert not seen[0][0, :, found].any()
    assert seen[0][0, :, ~found].any()
    network.branches(images)  # by the tags that it finds itself, one at least
    likeliest = torch.from_numpy(multi_hot((int(maps.mean(dim=(2, 3)).argmax()),), 3))[None]
    assert not seen[1][0, :, foreground(maps, likeliest)[0, 0] >= 0.6].any()


# schedules


def test_published_network_and_schedule(monkeypatch: pytest.MonkeyPatch):
    """Ten epochs in batches of 8 and thirty of 16, and a rate that would end with the 52,880th step of 33,060."""
    from tagseg.networks import resnet38

    monkeypatch.setattr(resnet38, "WIDTH", 4)
    settings = resolve("voc/ktse")
    train = settings.train
    assert [train.batch_size_at(epoch) for epoch in (0, 9, 10, 39)] == [8, 8, 16, 16]
    steps = Schedule(train.epochs, train.batch_size, 0, train.batch_size_at).steps(10582)
    assert steps == 10 * 1323 + 30 * 662
    network = KTSE(settings.backbone, "random", names(20), train, steps)
    assert schedule_end(train, steps) == pytest.approx(52880, rel=2e-3)
    found = network.configure_optimizers()
    assert {g["initial_lr"] for g in found["optimizer"].param_groups} == {1e-3}
    assert found["lr_scheduler"]["scheduler"].lr_lambdas[0](steps) == pytest.approx(0.41, abs=0.01)
    dropouts = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout2d)]
    assert dropouts == [0.2, 0.2]
    network.backbone.freeze(4, "frozen")  # as with ImageNet weights
    trained = [p for p in network.parameters() if p.requires_grad]
    assert len(trained) == 43  # as published
    assert resolve("voc/aeft").train.warmup_epochs == 18


def test_training_on_resnet38(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The published recipe with a narrow network, its batches growing after the warm-up."""
    from tagseg.networks import resnet38

    monkeypatch.setattr(resnet38, "WIDTH", 4)
    settings = {"weights": "random", "train.epochs": 4, "train.side": 49, "train.warmup_batch_size": 2}
    more = {"train.batch_size": 5, "masks.refine": "none"}
    lines: list[str] = []
    monkeypatch.setattr(
        "tagseg.pipeline.training.TrainingLoader.__len__",
        lambda self: lines.append(str(self.batch_size)) or len(self.sampler) // self.batch_size,
    )
    tagseg.fit(tiny_set, tmp_path / "run", recipe="voc/ktse", settings=settings | more, until="train", quiet=True)
    assert set(lines) == {"2", "5"}


# runs


@pytest.mark.parametrize("name", ["ktse", "aeft", "acol"])
def test_runs_to_its_end(tiny_set: Path, tmp_path: Path, name: str):
    settings = {**TINY, **({} if name == "acol" else {"train.warmup": 0.5}), "mine.rectify": True}
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe=name, settings=settings, quiet=True)
    assert 0 <= result.metrics.val.segmentation.miou <= 100
    assert tagseg.locate([tiny_set / "images"], tmp_path / "run", tmp_path / "boxes", method="own", quiet=True)
    photograph = tiny_set / "images" / "train_00000.png"
    assert tagseg.explain([photograph], tmp_path / "run", tmp_path / "maps", top=1, quiet=True)


def test_with_irn(tiny_set: Path, tmp_path: Path):
    irn = {"masks.refine": "irn", "masks.irn.epochs": 1, "masks.irn.batch_size": 4, "masks.irn.side": 65}
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe="ktse", settings=TINY | irn, quiet=True)
    assert (tmp_path / "run" / "masks").is_dir()
    assert result.metrics.val is not None


def test_settings_of_a_long_run():
    assert KTSESettings(epochs=40, warmup=0.25).warmup_epochs == 10
    assert AEFTSettings().batch_size_at(0) == AEFTSettings().batch_size
    assert ACoLSettings().batch_size_at(7) == ACoLSettings().batch_size
