"""ToCo, SS-EPA and AFA."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import tagseg
from tagseg.data.contrast_views import ContrastViews, resized_window
from tagseg.data.dataset import Sample
from tagseg.data.photometry import distort
from tagseg.data.views import whole
from tagseg.errors import BadInput
from tagseg.labels import IGNORE
from tagseg.masks.two_thresholds import refined_labels
from tagseg.methods.afa import AFA, affinity_loss, near_pairs, transition_matrix
from tagseg.methods.auxiliary_stage import affinity_labels, cells_inside, labels_of, patch_contrast_loss
from tagseg.methods.single_stage import balanced_cross_entropy
from tagseg.methods.ss_epa import SSEPA, BlockWeights, affinity_content_loss, affinity_share_loss, laid_elsewhere
from tagseg.methods.toco import ToCo, box_masks, class_contrast_loss, cut_crops, draw_crops, regions
from tagseg.networks.vit import Attention
from tests.conftest import TINY, names

SMALL: dict[str, Any] = {**TINY, "backbone": "test_vit", "train.side": 64, "train.crop_share": 0.5}


def built(kind: Any = ToCo, **settings: Any) -> Any:
    small = {"side": 64, "crop_share": 0.5, "classes_first": 0.0, "map_scales": (1.0, 0.5)}
    known = {k: v for k, v in {**small, **settings}.items() if k in kind.Settings.model_fields}
    network = kind("test_vit", "random", names(3), kind.Settings(**known), 10)
    network.log = lambda *_: None
    return network


def batch_of(network: Any, tags: list[list[float]]) -> dict[str, torch.Tensor]:
    shape = (len(tags), 3, network.side, network.side)
    inside = torch.tensor([[3, network.side, 0, network.side - 20]] * len(tags))
    return {
        "tags": torch.tensor(tags),
        "inside": inside,
        "draw": torch.arange(len(tags)),
        **{k: torch.randn(shape) for k in ("image", "again", "other")},
    }


# labels and losses


def test_boxes_in_pixels_become_whole_cells():
    boxes = torch.tensor([[0, 64, 0, 64], [5, 64, 16, 47]])
    assert cells_inside(boxes, 16).tolist() == [[0, 4, 0, 4], [1, 4, 1, 2]]
    assert box_masks(torch.tensor([[1, 3, 0, 2]]), (4, 4)).sum() == 4


def test_labels_by_two_thresholds():
    maps = torch.tensor([[[[0.9, 0.5, 0.1, 0.9]], [[0.0, 0.0, 1.0, 0.95]]]])
    first = torch.tensor([[1.0, 0.0]])
    assert labels_of(maps, first, high=0.7, low=0.25).flatten().tolist() == [1, IGNORE, 0, 1]
    assert labels_of(maps, torch.ones(1, 2), high=0.7, low=0.25).flatten().tolist() == [1, IGNORE, 2, 2]
    box = torch.tensor([[0, 1, 0, 3]])
    assert labels_of(maps, first, high=0.7, low=0.25, boxes=box).flatten().tolist() == [1, IGNORE, 0, IGNORE]
    assert regions(maps, first, high=0.7, low=0.25).flatten().tolist() == [2, 1, 0, 2]


def test_pairs_of_patches():
    found = affinity_labels(torch.tensor([[[0, 1], [1, IGNORE]]]))[0]
    assert found.tolist() == [
        [IGNORE, 0, 0, IGNORE],
        [0, IGNORE, 1, IGNORE],
        [0, 1, IGNORE, IGNORE],
        [IGNORE] * 4,
    ]


def test_patch_contrast_is_least_where_classes_stand_at_right_angles():
    pairs = affinity_labels(torch.tensor([[[1, 1, 2, 2]]]))
    apart = torch.tensor([[[1.0, 1, 0, 0], [0, 0, 1, 1]]])[:, :, None]
    alike = torch.ones(1, 2, 1, 4)
    same, other = (pairs == 1).sum(), (pairs == 0).sum()
    assert patch_contrast_loss(apart, pairs).item() == pytest.approx((1 - same / (same + 1)).item() / 2)
    expected = (1 - same / (same + 1) + other / (other + 1)) / 2
    assert patch_contrast_loss(alike, pairs).item() == pytest.approx(expected.item())
    assert torch.isfinite(patch_contrast_loss(alike, torch.full_like(pairs, IGNORE)))


def test_class_contrast_by_hand():
    """One image, two global views that are each other's positives, and one negative."""
    teacher = torch.eye(2)
    student = torch.tensor([[1.0, 0], [0, 1.0], [1.0, 1.0]])
    flags = torch.tensor([[1, 1, 0]])
    e, one = np.e, 1.0
    expected = np.mean([-np.log(s / (s + e + 1e-4)) for s in (e, one)]) * 2 / (2 + 1e-4)
    assert class_contrast_loss(student, teacher, flags, 1.0).item() == pytest.approx(expected, rel=1e-4)
    more = -np.log(1 / (1 + e + 1e-4)) / (2 + 1e-4)
    found = class_contrast_loss(student, teacher, flags, 1.0, extra=True).item()
    assert found == pytest.approx(expected + more, rel=1e-4)
    # tokens that are longer: no exponential leaves the numbers that there are, and every loss can be learnt from
    teacher, student = teacher * 20, (student * 20).requires_grad_()
    loss = class_contrast_loss(student, teacher, flags, 1.0, extra=True)
    loss.backward()
    assert loss.item() == pytest.approx((2 * 400 + np.log(2)) / (2 + 1e-4), rel=1e-4)
    assert torch.isfinite(student.grad).all()


def test_cross_entropy_is_balanced_and_never_nan():
    scores = torch.randn(1, 3, 2, 2, requires_grad=True)
    entropy = F.cross_entropy(scores, torch.zeros(1, 2, 2, dtype=torch.long), reduction="none").mean()
    torch.testing.assert_close(balanced_cross_entropy(scores, torch.zeros(1, 2, 2)), entropy / 2)
    nothing = balanced_cross_entropy(scores, torch.full((1, 2, 2), IGNORE))
    nothing.backward()
    assert nothing.item() == 0
    assert not scores.grad.any()


def test_pairs_that_are_near_and_known():
    labels = torch.tensor([[[0, 0, 1], [0, 2, IGNORE]]])
    found = near_pairs(labels, (2, 3), 1)[0]
    assert found[0].tolist() == [1, 1, IGNORE, 1, 0, IGNORE]
    assert found[2].tolist() == [IGNORE, 0, 1, IGNORE, 0, IGNORE]
    assert (found[5] == IGNORE).all()
    pairs = near_pairs(labels, (2, 3), 8)
    perfect = (pairs == 1).float()
    counts = (pairs == 1).sum(), (pairs == 0).sum()
    assert affinity_loss(perfect, pairs).item() == 0
    expected = sum((n / (n + 1)).item() for n in counts) / 2
    assert affinity_loss(1 - perfect, pairs).item() == pytest.approx(expected)


def test_maps_go_along_the_affinity():
    """Columns add up to nearly 1, and labels follow them."""
    matrix = transition_matrix(torch.rand(2, 12, 12), (3, 4), 1, 2.0)
    assert matrix[0, 0, 2] == 0
    assert ((matrix.sum(dim=1) > 0.5) & (matrix.sum(dim=1) < 1)).all()
    grid = (4, 4)
    move = torch.zeros(1, 4, 4, 4, 4)  # every place takes what is above it, the first row itself
    for y in range(4):
        for x in range(4):
            move[0, max(0, y - 1), x, y, x] = 1
    maps = torch.zeros(1, 1, 16, 16)
    maps[:, :, :4] = 1
    images = torch.rand(1, 3, 16, 16)
    images[:, :, 8:] += 5
    plain, moved = (
        refined_labels(images, maps, torch.ones(1, 1), high=0.5, low=0.5, affinity=a, iterations=1)
        for a in (None, move)
    )
    assert (moved == 1).sum() > (plain == 1).sum()
    assert grid == move.shape[1:3]


# crops


def test_crops_are_centred_where_nothing_is_sure():
    found = torch.full((1, 40, 40), 2)
    found[:, 10:20, 12:30] = 1
    corners = draw_crops(found, 8, 30, torch.tensor([1]))[0]
    assert len(corners.unique(dim=0)) == 30
    assert all(found[0, y + 4, x + 4] <= 1 for y, x in corners.tolist())
    assert all(0 <= v <= 32 for v in corners.flatten().tolist())
    anywhere = draw_crops(torch.full((3, 40, 40), 2), 8, 5, torch.tensor([1, 2, 1]))
    assert anywhere.shape == (3, 5, 2)
    assert torch.equal(anywhere[0], anywhere[2])  # by its seed alone
    assert not torch.equal(anywhere[0], anywhere[1])
    one = draw_crops(torch.zeros(1, 8, 8, dtype=torch.long), 8, 5, torch.tensor([1]))
    assert one.tolist() == [[[0, 0]] * 5]  # one place


def test_crops_and_what_they_are():
    images = torch.arange(2 * 3 * 6 * 6.0).view(2, 3, 6, 6)
    found = torch.zeros(2, 6, 6, dtype=torch.long)
    found[0, :2, :2] = 2
    corners = torch.tensor([[[0, 0], [2, 2]], [[1, 3], [0, 0]]])
    crops, flags = cut_crops(images, found, corners, 2, 0.2)
    assert crops.shape == (2, 2, 3, 2, 2)
    torch.testing.assert_close(crops[0, 1], images[1, :, 1:3, 3:5])
    assert flags.tolist() == [[1, 0], [0, 0]]


# views


def test_one_window_in_two_colourings(tmp_path: Path):
    """Geometry is the same in both; in the published code each is mirrored by its own chance."""
    rng = np.random.default_rng(0)
    image = np.zeros((60, 90, 3), np.uint8)
    image[:, :30] = 220
    image += rng.integers(0, 20, image.shape, dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "0.png")
    samples = (Sample("0", tmp_path / "0.png", (1,)),)
    network = built()
    views = network.training_views(samples, 0)
    assert isinstance(views, ContrastViews)
    item = views[0, 0]
    assert set(item) == {"image", "tags", "inside", "again", "other", "draw"}
    assert all(item[name].shape == (3, 64, 64) for name in ("image", "again", "other"))
    assert torch.equal(item["image"], views[0, 0]["image"])

    def agreement(official: str) -> list[float]:
        shown = built(compat=official).training_views(samples, 0)
        items = [shown[epoch, 0] for epoch in range(30)]
        return [float(np.corrcoef(i["image"].mean(0).ravel(), i["again"].mean(0).ravel())[0, 1]) for i in items]

    assert min(agreement("paper")) > 0.2
    assert min(agreement("official")) < 0
    view = resized_window(whole(image), 64, rng)
    assert view.image.shape == (64, 64, 3)


def test_distortion_keeps_geometry():
    rng = np.random.default_rng(0)
    image = np.zeros((40, 40, 3), np.uint8)
    image[10:30, 10:30] = (200, 60, 30)
    for _ in range(20):
        found = distort(whole(image), rng, blur=0.5, solarise=0.5).image.astype(float).mean(axis=2)
        assert abs(found[20, 20] - found[2, 2]) > 5
        assert found.shape == (40, 40)


# the networks

TAGS: list[list[list[float]]] = [[[1, 0, 1], [0, 1, 0], [0, 0, 0]], [[1, 1, 1]], [[0, 0, 0]]]
VARIANTS: list[tuple[Any, dict[str, Any]]] = [
    (ToCo, {}),
    (ToCo, {"compat": "official"}),
    (ToCo, {"classes_first": 1.0}),
    (ToCo, {"contrast_from": 1.0}),
    (ToCo, {"crops": 1}),
    (AFA, {"spread_from": 1.0}),
    (AFA, {"spread_from": 0.0, "radius": 2}),
    (SSEPA, {"fusion_labels": "last"}),
    *((SSEPA, {"affinity": a}) for a in ("none", "mean", "enhanced", "literal")),
]


@pytest.mark.parametrize(("kind", "settings"), VARIANTS, ids=str)
@pytest.mark.parametrize("tags", TAGS, ids=["odd", "one", "none"])
def test_every_variant_learns(kind: Any, settings: dict[str, Any], tags: list[list[float]]):
    network = built(kind, **settings)
    loss = network.training_step(batch_of(network, tags), 0)
    loss.backward()
    assert torch.isfinite(loss)
    idle = {("classes_first", 1.0): "decoder", ("contrast_from", 1.0): "projection"}
    idle_now = tuple(part for (key, value), part in idle.items() if settings.get(key) == value)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and not name.startswith(idle_now):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_affinities_are_symmetric_probabilities():
    network = built(AFA).eval()
    tokens = network.tokens(torch.randn(2, 3, 64, 80))
    found = network.affinities(tokens.attention)
    assert found.shape == (2, 20, 20)
    torch.testing.assert_close(found, found.transpose(1, 2))
    assert 0 < found.min() < found.max() < 1
    assert network.transitions(tokens.attention).shape == (2, 4, 5, 4, 5)


def test_maps_are_spread_along_the_attention_at_the_largest_scale():
    network = built(AFA, map_scales=(0.5, 1.5, 1.0)).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps, attention = network.teaching_maps(images, network.tokens(images), torch.ones(1, 3))
        large = F.interpolate(images, (96, 96), mode="bilinear", align_corners=False)
        expected = network.tokens(large).attention
    assert maps.shape == (1, 3, 64, 64)
    assert attention.grid == (6, 6)
    torch.testing.assert_close(attention.queries[-1], expected.queries[-1])


def test_the_teacher_follows_and_does_not_learn():
    network = built()
    before = network.teacher.last.weight.clone()
    own = network.projection.last.weight.detach().clone() + 1
    network.projection.last.weight.data.add_(1)
    network.training_step(batch_of(network, TAGS[0]), 0).backward()
    torch.testing.assert_close(network.teacher.last.weight, 0.9 * before + 0.1 * own)
    assert all(p.grad is None for p in network.teacher.parameters())
    network.training_step(batch_of(network, TAGS[0]), 1).backward()  # the rest of a batch that comes in parts
    torch.testing.assert_close(network.teacher.last.weight, 0.9 * before + 0.1 * own)


def test_the_auxiliary_classifier_teaches_until_patches_are_contrasted(monkeypatch: pytest.MonkeyPatch):
    taught = []
    monkeypatch.setattr(ToCo, "teaching_maps", lambda *_: ("main", "early"))
    monkeypatch.setattr(ToCo, "segmentation", lambda _self, _images, _features, maps, *_: taught.append(maps) or {})
    monkeypatch.setattr(ToCo, "patch_labels", lambda *_: taught.append("patches") or torch.zeros(3, 4, 4).long())
    monkeypatch.setattr(ToCo, "class_contrast", lambda *_: taught.append("crops") or 0)
    for share in (0.0, 1.0):
        network = built(classes_first=0.0, contrast_from=share)
        network.training_step(batch_of(network, TAGS[0]), 0)
    assert taught == ["patches", "crops", "main", "early"]


def test_maps_that_teach():
    """The main map at one scale by hand; nothing is computed twice."""
    network = built(map_scales=(1.0,)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tags = torch.tensor([[1.0, 0, 1], [0, 0, 1]])
        main, early = network.teaching_maps(images, network.tokens(images), tags)
        maps = torch.stack([network.class_maps(images), network.class_maps(images.flip(-1)).flip(-1)])
        large = F.interpolate(maps.flatten(0, 1), size=(64, 64), mode="bilinear", align_corners=False).unflatten(
            0, (2, 2)
        )
        expected = large.amax(dim=0).relu()
    expected = expected - expected.amin(dim=(2, 3), keepdim=True)
    expected[:, 1] = 0  # none of them has it
    torch.testing.assert_close(main, expected / (expected.amax(dim=(2, 3), keepdim=True) + 1e-5), atol=1e-4, rtol=0)
    assert early.shape == main.shape
    seen: list[int] = []
    network.backbone.network.patch_embed.register_forward_hook(lambda *_: seen.append(1))
    network.teaching_maps(images, network.tokens(images), tags)
    assert len(seen) == 2  # one of them here


def test_block_weights_begin_at_one():
    weights = BlockWeights(12)(torch.randn(2, 12))
    torch.testing.assert_close(weights, torch.ones(2, 12))


def test_haaf_begins_as_the_plain_mean_and_learns():
    enhanced, mean = built(SSEPA), built(SSEPA, affinity="mean")
    mean.load_state_dict(enhanced.state_dict(), strict=False)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(enhanced.eval().class_maps(images), mean.eval().class_maps(images))
    enhanced.train().training_step(batch_of(enhanced, TAGS[0]), 0).backward()
    assert enhanced.fusion.layers[2].bias.grad.abs().sum() > 0
    literal = built(SSEPA, affinity="literal")
    literal.training_step(batch_of(literal, TAGS[0]), 0).backward()
    assert all(p.grad is None for p in literal.fusion.parameters())


@pytest.mark.parametrize("signal", ["content", "affinity", "tags"])
def test_the_fusion_teaches_nothing_but_itself(signal: str):
    network = built(SSEPA, fusion_signal=signal)
    tokens = network.tokens(torch.randn(2, 3, 64, 64))
    labels = torch.randint(0, 2, (2, 4, 4))
    boxes = torch.tensor([[0, 4, 0, 4], [0, 3, 1, 4]])
    network.refinement_loss(tokens, torch.eye(2, 3), labels, boxes)["fusion"].backward()
    learnt = [name for name, p in network.named_parameters() if p.grad is not None]
    assert learnt
    assert all(name.startswith("fusion") for name in learnt)


def test_weights_of_blocks_learn_from_the_maps_that_are_named(monkeypatch: pytest.MonkeyPatch):
    """Of the auxiliary classifier, or of the last block, where these have other labels."""
    seen: dict[str, torch.Tensor] = {}
    for which in ("auxiliary", "last"):
        network = built(SSEPA, fusion_labels=which)
        early, last = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
        monkeypatch.setattr(network, "taught_maps", lambda *_, pair=(last, early): pair)
        monkeypatch.setattr(network, "refinement_loss", lambda *given, name=which: seen.update({name: given[2]}) or {})
        network.training_step(batch_of(network, [[1, 0, 0]]), 0)
    inside = seen["last"] != 255
    assert inside.any()
    assert (seen["auxiliary"][inside] == 0).all()
    assert (seen["last"][inside] == 1).all()


@pytest.mark.parametrize("which", ["auxiliary", "last"])
def test_weights_of_blocks_learn_from_no_padding(monkeypatch: pytest.MonkeyPatch, which: str):
    """ToCo's published code reads a box in pixels as cells where it contrasts patches; HAAF has no part in it."""
    seen: list[Any] = []
    network = built(SSEPA, fusion_labels=which, compat="official")
    monkeypatch.setattr(network, "taught_maps", lambda *_: (torch.ones(1, 3, 64, 64),) * 2)
    monkeypatch.setattr(network, "refinement_loss", lambda *given: seen.append(given) or {})
    batch = batch_of(network, [[1, 0, 0]])
    batch["inside"] = torch.tensor([[32, 64, 0, 64]])
    network.training_step(batch, 0)
    (labels, boxes) = seen[0][2:]
    y0, y1, x0, x1 = boxes[0].tolist()
    inside = torch.zeros_like(labels, dtype=torch.bool)
    inside[:, y0:y1, x0:x1] = True
    assert torch.equal(labels != IGNORE, inside)
    assert 0 < inside.sum() < inside.numel()


def test_maps_are_spread_along_the_affinity():
    network = built(SSEPA, affinity="literal").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = network.tokens(images)
        affinity = tokens.attention.affinity()
        plain = network.classifier(tokens.patches).flatten(2)
        expected = (plain @ affinity.transpose(1, 2)).unflatten(2, tokens.attention.grid)
        torch.testing.assert_close(
            network.class_maps(images), expected - expected.amin(dim=(2, 3), keepdim=True), atol=1e-5, rtol=1e-4
        )


def test_one_plain_transformer_is_needed(tiny_set: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="'test_resnet' is no plain vision transformer"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="toco", settings=TINY, quiet=True)
    with pytest.raises(BadInput, match="'cam' does not segment"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="cam", settings={**TINY, "segment.source": "method"}, quiet=True)


# runs


@pytest.mark.parametrize("name", ["toco", "ss-epa", "afa"])
def test_one_stage_to_the_end(tiny_set: Path, tmp_path: Path, name: str):
    """What is kept is the network that was trained beside the classifier."""
    run = tmp_path / "run"
    settings = {k: v for k, v in SMALL.items() if name != "afa" or k != "train.crop_share"}
    result = tagseg.fit(tiny_set, run, recipe=name, settings=settings, quiet=True)
    assert 0 <= result.metrics.val.segmentation.miou <= 100
    model = tagseg.load(run)
    assert model.network.head_name == "tokens"
    from tagseg.methods.saved import load_saved

    method = load_saved(run / "train").eval()
    images = torch.randn(1, 3, 64, 80)
    with torch.no_grad():
        torch.testing.assert_close(model.network(images), method.segment(images), atol=1e-4, rtol=1e-4)
    assert model.predict(tiny_set / "images" / "train_00000.png").max() <= len(model.classes)


def test_or_on_its_masks(tiny_set: Path, tmp_path: Path):
    more = {"segment.source": "masks", "segment.output_stride": None, "segment.side": 64}
    tagseg.fit(tiny_set, tmp_path / "run", recipe="toco", settings=SMALL | more, quiet=True)
    assert tagseg.load(tmp_path / "run").network.head_name == "aspp"


def test_the_share_of_attention_by_hand():
    """Against the affinity held whole; and it sees which patches attend to which, as the mean over patches does not."""
    torch.manual_seed(0)
    network = built(SSEPA)
    with torch.no_grad():
        attention = network.tokens(
            torch.randn(2, 3, 64, 64),
        ).attention
    assert attention is not None
    labels = torch.tensor([0, 2, 255, 1]).repeat(2, 4).view(2, 4, 4)
    labels[1] = labels[1].T.clone()
    weights = torch.rand(2, network.backbone.blocks, requires_grad=True)
    affinity, flat = attention.affinity(weights), labels.flatten(1)
    known = flat != 255
    alike = (flat[:, :, None] == flat[:, None]) & known[:, :, None] & known[:, None]
    share = (affinity * alike).sum(2) / (affinity * known[:, None]).sum(2)
    expected = 1 - (share[flat == 0].mean() + share[(flat > 0) & known].mean()) / 2
    found = affinity_share_loss(attention, labels, weights)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        *(torch.autograd.grad(loss, weights, retain_graph=True) for loss in (found, expected)), strict=True
    ):
        torch.testing.assert_close(one, other)
    shuffled = replace(
        attention,
        queries=[q[:, :, torch.cat([torch.zeros(1).long(), 1 + torch.randperm(16)])] for q in attention.queries],
    )
    maps = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(shuffled.spread(maps).mean((2, 3)), attention.spread(maps).mean((2, 3)))
    assert (affinity_share_loss(shuffled, labels, None) - affinity_share_loss(attention, labels, None)).abs() > 1e-5
    assert affinity_share_loss(attention, torch.full_like(labels, 255), None).item() == 0


def test_what_patches_owe_to_their_place_does_not_count():
    """In one block patches attend to themselves alone, in the other mostly to patches of their own label."""
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[:, 1:3, 1:4] = 3
    of_label = torch.stack([labels.flatten() == 0, labels.flatten() == 3], dim=1).float()[None, None]
    itself = 20 * torch.eye(16)[None, None]
    attention = Attention([itself, 2 * of_label], [itself, of_label], 0, (4, 4))

    def wanted(loss: Callable[..., torch.Tensor]) -> list[bool]:
        weights = torch.ones(1, 2, requires_grad=True)
        loss(attention, labels, weights).backward()
        return (weights.grad[0] < 0).tolist()

    assert wanted(affinity_share_loss) == [True, False]
    assert wanted(affinity_content_loss) == [False, True]
    alone = Attention([itself], [itself], 0, (4, 4))
    assert affinity_share_loss(alone, labels, None).item() == pytest.approx(0, abs=1e-6)
    assert affinity_content_loss(alone, labels, None).item() == pytest.approx(0, abs=1e-6)
    laid = [labels.roll((down, across), (1, 2)) for down in (1, 2) for across in (1, 2)]  # thirds of four, rounded down
    expected = affinity_share_loss(attention, labels, None)
    expected = expected - sum(affinity_share_loss(attention, each, None) for each in laid) / 4
    torch.testing.assert_close(affinity_content_loss(attention, labels, None), expected)
    assert affinity_content_loss(attention, torch.full_like(labels, 255), None).item() == 0


def test_padding_is_no_place_to_lay_labels():
    """To know padding from photograph is worth nothing; and an object over the whole width is still told apart."""
    inside = torch.zeros(6, 6, dtype=torch.bool)
    inside[:, :4] = True
    labels = torch.where(inside, torch.randint(0, 3, (6, 6)), 255)[None]
    boxes = torch.tensor([[0, 6, 0, 4]])
    side = torch.stack([inside.flatten(), ~inside.flatten()], dim=1).float()[None, None]
    told_apart = Attention([9 * side], [side], 0, (6, 6))
    assert affinity_content_loss(told_apart, labels, None, boxes).item() == pytest.approx(0, abs=1e-3)
    assert affinity_content_loss(told_apart, labels, None).abs() > 0.01
    laid = laid_elsewhere(labels, boxes, 1, 2)
    assert torch.equal(laid[:, :, :4], labels[:, :, :4].roll((2, 2), (1, 2)))
    assert (laid[:, :, 4:] == 255).all()
    band = torch.zeros(1, 6, 6, dtype=torch.long)
    band[:, :3] = 1
    of_band = torch.stack([band.flatten() == 0, band.flatten() == 1], dim=1).float()[None, None]
    assert affinity_content_loss(Attention([9 * of_band], [of_band], 0, (6, 6)), band, None) < -0.1
