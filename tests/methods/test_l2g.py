from pathlib import Path
from typing import Any

import pytest
import torch

import tagseg
from tagseg.errors import BadInput
from tagseg.grid import Grid
from tagseg.methods.l2g import L2G, L2GSettings, LocalNetwork
from tagseg.methods.l2g_targets import (
    classification_loss,
    crops,
    local_attention,
    local_targets,
    official_regions,
    official_targets,
    regions,
    transfer_loss,
    winners,
    with_images,
)
from tagseg.methods.settings.l2g import METHODS
from tagseg.networks.backbone import Backbone
from tagseg.pipeline.settings import resolve
from tagseg.pipeline.training import Place, Schedule, train
from tagseg.progress import Reporter
from tests.conftest import TINY, names


def built(kind: Any = L2G, backbone: str = "test_resnet", **settings: Any) -> Any:
    given = {"side": 49, **({"warmup": 0.0} if kind is L2G else {}), **settings}
    return kind(backbone, "random", names(3), kind.Settings(**given), 10)


def batch_of(network: Any, saliency: bool = False) -> dict[str, torch.Tensor]:
    s, side, view = network.settings, network.side, network.view_side
    origins = torch.randint(0, side - view + 1, (2, s.views, 2))
    batch = {
        "image": torch.randn(2, 3, side, side),
        "tags": torch.tensor([[1.0, 0, 1], [0, 0, 0]]),
        "boxes": torch.cat([origins, origins + view], dim=-1),
    }
    return {**batch, "saliency": torch.rand(2, side, side)} if saliency else batch


def step(network: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    network.log = lambda *_: None
    return network.training_step(batch, 0)


# targets and losses


def test_attention_of_tags():
    maps = torch.tensor([[[[2.0, -1.0]], [[4.0, 1.0]], [[-3.0, -1.0]]]])
    found = local_attention(maps, torch.tensor([[1.0, 0, 1]]))
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 0]], [[0, 0]], [[0, 0]]]]))


def test_one_class_wins_every_place():
    attention = torch.tensor([[[[0.5, 0.2, 0]], [[0.4, 0.9, 0]]]])
    torch.testing.assert_close(winners(attention), torch.tensor([[[[0.5, 0, 0]], [[0, 0.9, 0]]]]))


def test_targets_without_saliency():
    """What the winner leaves over is background."""
    maps = torch.tensor([[[[1.0, 0.2, -1]], [[0.5, 1, -1]]]])
    found = local_targets(maps, torch.ones(1, 2), None, 0.1)
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]]]))


def test_shape_transfer():
    """A class learns saliency where it wins and is strong enough; the background learns the rest."""
    maps = torch.tensor([[[[1.0, 0.2, 0.05]], [[0.5, 1, 0.02]]]])
    saliency = torch.tensor([[[1.0, 0.6, 0.8]]])
    found = local_targets(maps, torch.ones(1, 2), saliency, 0.1)
    torch.testing.assert_close(found, torch.tensor([[[[1.0, 0, 0]], [[0, 0.6, 0]], [[0, 0.4, 0.2]]]]))


def test_views_without_anything_salient_fall_back_one_by_one():
    maps, tags = torch.rand(2, 3, 4, 4), torch.ones(2, 3)
    saliency = torch.stack([torch.full((4, 4), 0.3), torch.full((4, 4), 0.9)])
    found = local_targets(maps, tags, saliency, 0.1)
    torch.testing.assert_close(found[0], local_targets(maps, tags, None, 0.1)[0])
    torch.testing.assert_close(found[1, -1], torch.full((4, 4), 0.1))


def test_the_published_code_does_not_fall_back():
    found = official_targets(torch.rand(1, 4, 3, 3), torch.ones(1, 3), torch.zeros(1, 3, 3), 0.001)
    assert not found[:, :-1].any()
    assert found[:, -1].any()


def test_no_tags_teach_background_alone():
    found = local_targets(torch.rand(1, 3, 2, 2), torch.zeros(1, 3), None, 0.1)
    assert not found[:, :3].any()
    assert (found[:, 3] == 1).all()


def test_transfer_loss_by_hand():
    """Two channels alike: both are a half."""
    targets = torch.tensor([[[[1.0]], [[0.0]]]])
    assert transfer_loss(torch.zeros(1, 2, 1, 1), targets).item() == pytest.approx(0.25)


def test_only_classes_are_classified():
    maps = torch.randn(2, 4, 3, 3)
    tags = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    other = maps.clone()
    other[:, 3] += 5
    torch.testing.assert_close(classification_loss(maps, tags), classification_loss(other, tags))


# regions


def test_regions_on_whole_cells_are_cut_out():
    maps = torch.randn(2, 3, 6, 7)
    boxes = torch.tensor([[1, 16, 32, 16 + 49, 32 + 49], [0, 48, 0, 48 + 49, 49]])
    found = regions(maps, boxes, (4, 4), Grid(16, corners=True))
    torch.testing.assert_close(found[0], maps[1, :, 2:6, 1:5])
    torch.testing.assert_close(found[1], maps[0, :, 0:4, 3:7])


@pytest.mark.parametrize("enlarge", [1.0, 2.0])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_network_agrees_with_its_regions(name: str, enlarge: float):
    """Cells of a view and of the whole lie where `regions` says: a map of positions, seen through both."""
    network = built(backbone=name, side=160, output_stride=None, enlarge=enlarge)
    side, view, grid = network.side, network.view_side, network.backbone.grid
    stride, corners = grid.stride, grid.corners
    positions = torch.arange(side, dtype=torch.float32).expand(1, 1, side, side)

    def cells(image: torch.Tensor) -> torch.Tensor:
        """The mean position of each cell, by the geometry that `Backbone` describes."""
        if corners:
            return image[:, :, ::stride, ::stride]
        return torch.nn.functional.avg_pool2d(image, stride)

    boxes = torch.tensor([[0, 9, 11, 9 + view, 11 + view], [0, side - view - 9, 0, side - 9, view]])
    found = regions(cells(positions), boxes, network.view_cells, grid, network.enlarged)
    assert found.shape[-1] == round(grid.cells(view, view)[0] * enlarge - corners * (enlarge - 1))
    expected = cells(network.shown(crops(positions, boxes)))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)  # pixels; an enlarged border is repeated


def test_regions_reach_the_border_and_have_gradients():
    network = built()
    maps = torch.randn(1, 4, *network.backbone.grid.cells(49, 49), requires_grad=True)
    end = network.side - network.view_side
    regions(maps, torch.tensor([[0, end, end, 49, 49]]), network.view_cells, network.backbone.grid).sum().backward()
    assert maps.grad[0, 0, -1, -1] == 1


def test_the_published_alignment_lies_half_a_cell_aside():
    """A map of positions shows it."""
    positions = torch.arange(56.0).expand(1, 1, 56, 56)
    box = torch.tensor([[0, 64, 64, 64 + 320, 64 + 320]])
    ours = regions(positions, box, (40, 40), Grid(8, corners=True))[0, 0, 0]
    theirs = official_regions(positions, box, (40, 40), 8)[0, 0, 0]
    torch.testing.assert_close(ours, torch.arange(8.0, 48))
    torch.testing.assert_close(theirs, ours + 0.5)


def test_boxes_and_crops():
    images = torch.arange(2 * 36.0).view(2, 1, 6, 6)
    boxes = with_images(torch.tensor([[[0, 0, 2, 2], [4, 3, 6, 5]], [[1, 1, 3, 3], [2, 0, 4, 2]]]))
    assert boxes[:, 0].tolist() == [0, 0, 1, 1]
    found = crops(images, boxes)
    assert found[1].flatten().tolist() == [22, 23, 28, 29]
    assert found[3].flatten().tolist() == [38, 39, 44, 45]


# the networks

BOTH: list[dict[str, Any]] = [
    {},
    {"saliency": True},
    {"compat": "official"},
    {"compat": "official", "saliency": True},
    {"pixel_correlation": True},
    {"views": 1},
]
GLOBAL: list[dict[str, Any]] = [
    {"shared_backbone": True},
    {"global_classification": True},
    {"pixel_correlation": True, "saliency": True, "shared_backbone": True},
    {"background": True},
]


@pytest.mark.parametrize(
    ("kind", "settings"), [*((LocalNetwork, s) for s in BOTH), *((L2G, s) for s in BOTH + GLOBAL)], ids=str
)
def test_every_variant_learns(kind: Any, settings: dict[str, Any]):
    network = built(kind, **settings)
    loss = step(network, batch_of(network, "saliency" in settings))
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_the_local_network_learns_from_tags_alone():
    """Its gradients are those of the classifier by itself; what is transferred goes one way."""
    torch.manual_seed(0)
    network = built()
    batch = batch_of(network)
    step(network, batch).backward()
    found = network.local_head.classifier.weight.grad.clone()
    boxes = with_images(batch["boxes"])
    maps = network.local_head(network.local_backbone, crops(batch["image"], boxes))
    loss = classification_loss(maps, batch["tags"].repeat_interleave(4, dim=0))
    (expected,) = torch.autograd.grad(loss, network.local_head.classifier.weight)
    torch.testing.assert_close(found, expected)


def test_channels():
    """Only the global network may have a background, or, as published, both or none."""
    for settings, channels in (
        ({}, (3, 3)),
        ({"background": True}, (4, 3)),
        ({"saliency": True}, (4, 3)),
        ({"compat": "official"}, (3, 3)),
        ({"compat": "official", "saliency": True}, (4, 4)),
    ):
        network = built(**settings)
        assert (network.head.classifier.out_channels, network.local_head.classifier.out_channels) == channels
        maps, logits = network.maps_and_logits(network.score_maps(torch.randn(2, 3, 49, 65)))
        assert maps.shape == (2, 3, 4, 5)
        assert logits.shape == (2, 3)
        softmax = channels[0] == 4 and settings.get("compat") != "official"
        assert bool(maps.min() < 0) != softmax


def test_what_the_softmax_does_not_see_is_not_in_the_maps():
    """All channels may rise together."""
    for settings in ({}, {"background": True}, {"saliency": True}):
        network = built(**settings)
        scores = network.score_maps(torch.randn(1, 3, 49, 49))
        for found, expected in zip(network.maps_and_logits(scores + 7), network.maps_and_logits(scores), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    official = built(compat="official")
    scores = official.score_maps(torch.randn(1, 3, 49, 49))
    torch.testing.assert_close(official.maps_and_logits(scores)[0], scores)


def test_one_class_learns_against_the_background():
    network = L2G("test_resnet", "random", names(1), L2GSettings(side=49, background=True, warmup=0.0), 10)
    batch = batch_of(network)
    step(network, {**batch, "tags": torch.tensor([[1.0], [0.0]])}).backward()
    assert network.head.classifier.weight.grad.abs().sum() > 0


def test_a_view_teaches_the_tags_that_are_found_in_it():
    """Of four views of a photograph with two tags one shows both, one shows one, and two show neither."""
    for background in (False, True):
        network = built(background=background)
        maps = torch.full((5, 3, 2, 2), -1.0)
        maps[0, :2, 0], maps[1, 1, 1] = 3.0, 3.0
        tags = torch.tensor([[1.0, 1, 0]] * 4 + [[0, 0, 0]])
        boxes = torch.zeros(5, 5, dtype=torch.long)
        targets, counted = network.targets(maps, tags, None, boxes)
        assert counted.tolist() == [True, True, False, False, background]
        assert targets.shape[1] == 3 + background
        assert targets[0, :2, 0].min() == 1
        assert not targets[1, 0].any()
        assert targets[1, 1, 1].min() == 1
        assert not targets[2:, :3].any()
        scores = torch.randn(5, 3 + background, 2, 2, requires_grad=True)
        transfer_loss(scores, targets, counted).backward()
        assert scores.grad.flatten(1).any(dim=1).tolist() == counted.tolist()
    targets, counted = built(compat="official").targets(maps, tags, None, boxes)
    assert counted.all()
    assert targets[2, :2].amax(dim=(1, 2)).tolist() == [0, 0]  # nothing positive
    assert official_targets(maps + 2, tags, None, 0.1)[2, :2].amax() == 1  # its strongest bit of nothing


def test_the_global_network_begins_as_the_local_one(tiny_set: Path, tmp_path: Path):
    """Until the warm-up is over it stays as it was."""
    from tests.methods.any_method import some

    samples, classes = some(tiny_set)
    seen = []

    class Watched(L2G):
        def on_train_batch_start(self, *_: Any) -> None:
            both = zip(self.backbone.parameters(), self.local_backbone.parameters(), strict=True)
            own, others = self.head.classifier.weight[: self.num_classes], self.local_head.classifier.weight
            seen.append((all(torch.equal(a, b) for a, b in both), torch.equal(own, others)))

    settings = L2GSettings(side=49, warmup=0.5, views=2, batch_size=4, saliency=True)
    schedule = Schedule(2, 4, seed=0)
    network = Watched("test_resnet", "random", classes, settings.model_copy(update={"epochs": 2}), 2)
    place = Place(tmp_path, "train", Reporter(quiet=True))
    train(network, network.training_views(samples, 0), schedule, place, rests=True)
    assert seen == [(False, False), (True, True)]


def test_the_global_network_may_learn_faster():
    network = built(global_factor=3.0)
    rate_of = {
        id(p): group["initial_lr"]
        for group in network.configure_optimizers()["optimizer"].param_groups
        for p in group["params"]
    }
    for part, rate in (("local_backbone", 1e-4), ("local_head", 1e-3), ("backbone", 1e-4), ("head", 3e-3)):
        rates = [rate_of[id(p)] for p in getattr(network, part).parameters() if p.requires_grad]
        assert rates == pytest.approx([rate] * len(rates))
    shared = built(shared_backbone=True)
    groups = shared.configure_optimizers()["optimizer"].param_groups
    assert sum(len(g["params"]) for g in groups) == sum(p.requires_grad for p in shared.parameters())


def test_colours_are_normalised_as_asked():
    pretrained, own = built(), built(statistics="coco")
    assert pretrained.backbone.mean == Backbone("test_resnet").mean
    for backbone in (own.backbone, own.local_backbone):
        assert (backbone.mean, backbone.std) == ((0.471, 0.448, 0.408), (0.234, 0.239, 0.242))


def test_a_shared_backbone_is_stored_once():
    names = [name for name in built(shared_backbone=True).state_dict() if "backbone" in name]
    assert names
    assert not any(name.startswith("local_backbone") for name in names)


def test_published_network_and_schedule(monkeypatch: pytest.MonkeyPatch):
    """Rates 1 and 10 (nothing has a bias), a tenth from the 6th of 10 epochs; COCO: poly after 500 slow steps."""
    from tagseg.networks import resnet38

    monkeypatch.setattr(resnet38, "WIDTH", 4)
    settings = resolve("voc/l2g")
    assert settings.segment.backbone == "resnet101.tv_in1k"
    network = L2G(settings.backbone, "random", names(20), settings.train, 1000)
    assert (network.side, network.view_side, network.view_cells) == (449, 321, (41, 41))
    assert network.head.classifier.out_channels == network.local_head.classifier.out_channels == 21
    found = network.configure_optimizers()
    groups = found["optimizer"].param_groups
    assert [group["initial_lr"] for group in groups] == pytest.approx([1e-3, 2e-3, 1e-2])
    assert all(group["nesterov"] and group["weight_decay"] == 5e-4 for group in groups)
    trained = sum(len(group["params"]) for group in groups)
    assert trained == sum(p.requires_grad for p in network.parameters())
    rate = found["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [rate(step) for step in (0, 499, 500, 999)] == [1, 1, 0.1, 0.1]
    settings = resolve("coco/l2g", {"train.slow_steps": 500})
    network = L2G(settings.backbone, "random", names(80), settings.train, 10000)
    rate = network.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert rate(0) == pytest.approx(0.01)
    assert rate(499) == pytest.approx(0.01, rel=0.1)
    assert rate(5000) == pytest.approx(0.5**0.9)


def test_views_that_cannot_be():
    with pytest.raises(BadInput, match="view_side 300: a local view lies within `side` 49"):
        built(view_side=300)
    with pytest.raises(BadInput, match=r"one class alone has nothing to be told from: set train\.background=true"):
        L2G("test_resnet", "random", names(1), L2GSettings(side=49), 10)
    with pytest.raises(BadInput, match="the published code has no such channel"):
        built(background=True, compat="official")
    with pytest.raises(BadInput, match="views 6: uniform views form a square; give 1, 4, 9 or 16"):
        built(placement="uniform", views=6)


def test_weights_that_nobody_gives_are_asked_for_before_anything_is_written(tiny_set: Path, tmp_path: Path):
    with pytest.raises(BadInput, match="'resnet38' has no weights that could be fetched"):
        tagseg.fit(tiny_set, tmp_path / "run", recipe="voc/l2g", quiet=True)
    assert not (tmp_path / "run").exists()


# runs


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("saliency", [False, True])
def test_runs_to_its_end(tiny_set: Path, tmp_path: Path, name: str, saliency: bool):
    settings = {**TINY, "train.saliency": saliency, "data.saliency": "built-in"}
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe=name, settings=settings, quiet=True)
    assert 0 <= result.metrics.val.segmentation.miou <= 100
    assert (tmp_path / "run" / "saliency").exists() == saliency
    assert tagseg.locate([tiny_set / "images"], tmp_path / "run", tmp_path / "boxes", method="own", quiet=True)


def test_on_resnet38(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The published recipe with a narrow network, to the masks; the segmentation network is another."""
    from tagseg.networks import resnet38

    monkeypatch.setattr(resnet38, "WIDTH", 4)
    small = {"weights": "random", "train.epochs": 1, "train.side": 65, "train.view_side": 49, "mine.side": 65}
    segment = {"segment.backbone": "test_resnet", "segment.weights": "random", "segment.side": 49, "segment.epochs": 1}
    more = {"segment.output_stride": 16, "data.saliency": "built-in", "mine.scales": [0.5, 1.0]}
    result = tagseg.fit(tiny_set, tmp_path / "run", recipe="voc/l2g", settings={**small, **segment, **more}, quiet=True)
    assert result.metrics.val is not None
    assert tagseg.load(tmp_path / "run").network.backbone.name == "test_resnet"
    written = tagseg.explain(
        [tiny_set / "images" / "train_00000.png"],
        tmp_path / "run",
        tmp_path / "maps",
        layers="stages",
        top=1,
        quiet=True,
    )
    assert len(written) == 2
    assert "saliency" in (tmp_path / "run" / "report.html").read_text()
