"""Networks that maps went wrong on, here or elsewhere: against a twin without the difficulty, or plain autograd."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tagseg.attribution import (
    CAM,
    AblationCAM,
    GradCAM,
    GradientMaps,
    GuidedBackprop,
    Hierarchy,
    LayerCAM,
    NormGrad,
    ScoreCAM,
)
from tagseg.attribution.ablation import drops
from tagseg.attribution.formulas import FORMULAS
from tagseg.attribution.gap import Decision, Recorder
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import find_layers
from tagseg.errors import BadInput

METHODS: dict[str, Any] = {"gradcam": GradCAM, "layercam": LayerCAM, "normgrad": NormGrad, "scorecam": ScoreCAM}
every = pytest.mark.parametrize("name", list(METHODS))


def images(count: int = 2, size: tuple[int, int] = (64, 64)) -> torch.Tensor:
    return torch.randn(count, 3, *size)


class Stages(nn.Module):
    """Three convolutions with a rectifier each, which is one module (`shared`) or three."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 16), (16, 32)))
        self.relu = nn.ReLU()
        self.r1, self.r2, self.r3 = (self.relu if shared else nn.ReLU() for _ in range(3))
        self.pool, self.fc = nn.MaxPool2d(2), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.r1(self.c1(x)))
        x = self.pool(self.r2(self.c2(x)))
        return self.fc(self.r3(self.c3(x)).mean((2, 3)))


def twins(kind: type[nn.Module] = Stages, **options: Any) -> tuple[Any, Any]:
    """A network, and a plain one with the same weights."""
    one, other = kind(**options).eval(), Stages().eval()
    other.load_state_dict(one.state_dict(), strict=False)
    return one, other


@every
def test_a_module_that_is_called_several_times(name: str):
    one, other = twins(shared=True)
    batch = images()
    assert [layer.name for layer in find_layers(one, "stages", batch)] == ["relu#1", "relu#2", "relu#3"]
    for layers, same in (("stages", "stages"), ("last", "last"), ("relu#2", "r2"), ("relu", "r3"), (one.relu, "r3")):
        found, expected = (METHODS[name](m, w).layer_maps(batch, [1, 4]) for m, w in ((one, layers), (other, same)))
        assert len(found) == len(expected)
        for maps, twin in zip(found, expected, strict=True):
            assert torch.allclose(maps, twin, atol=1e-6)
    with pytest.raises(BadInput, match="called 3 times"):
        METHODS[name](one, "relu#4")(batch)


def test_a_hierarchy_through_one_rectifier():
    one, other = twins(shared=True)
    trees = [Hierarchy(m, "stages")(images(1), [2])[0][0] for m in (one, other)]
    torch.manual_seed(0)
    batch = images(1)
    nodes = [[n.decision for _, n in Hierarchy(m, "stages")(batch, [2])[0][0].nodes()] for m in (one, other)]
    assert nodes[0] == nodes[1]
    assert trees[0].layers == ("relu#1", "relu#2", "relu#3")


@pytest.mark.parametrize("kind", [nn.ReLU, nn.ReLU6])
def test_channels_are_taken_from_the_call_that_is_meant(kind: type[nn.Module]):
    one, other = twins(shared=True)
    one.relu = kind()
    one.r1 = one.r2 = one.r3 = one.relu
    other.r1, other.r2, other.r3 = kind(), kind(), kind()
    with torch.no_grad():
        for model in (one, other):
            model.c3.weight.mul_(30)  # a part is clipped
    batch = images(1)
    found, expected = (AblationCAM(m, w).layer_maps(batch, [1, 4]) for m, w in ((one, "relu#2"), (other, "r2")))
    assert torch.allclose(found[0], expected[0], atol=1e-5)
    names = (["relu#2", "relu#3"], ["r2", "r3"])
    decision = Decision(1, 3, 5, 6)
    sources = [Recorder(m, layers)(batch) for m, layers in zip((one, other), names, strict=True)]
    parts = [source.parts([decision])[0] for source in sources]
    assert parts[0].value == pytest.approx(parts[1].value)
    assert torch.allclose(parts[0].maps, parts[1].maps, atol=1e-5)
    falls = [drops(m, source, batch, [decision], 0) for m, source in zip((one, other), sources, strict=True)]
    assert torch.allclose(*falls, atol=1e-4)


def test_decisions_of_steep_scores_in_half_precision():
    model, batch = Cosine().eval(), images(1)
    recordings = [Recorder(model, "tower")(batch)]
    expected = recordings[0].parts([recordings[0].score(0, 1)])[0]
    model.tower.half()
    model.classes.half()
    recording = Recorder(model, "tower")(batch)
    found = recording.parts([recording.score(0, 1)])[0]
    assert torch.allclose(found.maps, expected.maps, atol=0.02 * float(expected.maps.abs().max()))


def test_a_rectifier_of_a_residual_block():
    model = timm.create_model("resnet18").eval()
    names = [layer.name for layer in find_layers(model, ["layer4.1.act1", "layer4.1.act2"], images(1))]
    assert names == ["layer4.1.act1", "layer4.1.act2"]
    (maps,) = GradCAM(model, "layer4.1.act2").layer_maps(images(1), [3])
    assert maps.shape[2:] == (2, 2)


@pytest.mark.parametrize("size", [(404, 638), (56, 56), (224, 896), (64, 2048)])
def test_rows_and_channels_of_any_size(size: tuple[int, int]):
    model, _ = twins()
    batch = images(1, size)
    (maps,) = LayerCAM(model, "r2").layer_maps(batch, [0])
    assert maps.shape[2:] == (size[0] // 2, size[1] // 2)


class Last(nn.Module):
    """Channels last inside, with as many channels as rows."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.norm = nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.LayerNorm(16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(F.gelu(self.norm(self.c1(x).permute(0, 2, 3, 1))).mean((1, 2)))


def test_channels_last_that_look_like_rows():
    model = Last().eval()
    batch = images(1)
    (layer,) = find_layers(model, "norm", batch)
    assert layer.reading is not None
    assert (layer.reading.rows, layer.reading.columns) == (1, 2)
    (maps,) = GradCAM(model, "norm").layer_maps(batch, [1])
    values = model.norm(model.c1(batch).permute(0, 2, 3, 1)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.fc(F.gelu(values).mean((1, 2)))[0, 1], values)
    expected = (gradient.mean((1, 2), keepdim=True) * values).sum(3).relu()
    assert torch.allclose(maps[:, 0], expected, atol=1e-6)


def test_attention_matrices_and_windows_are_no_pictures():
    model = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, num_heads=(1, 2, 4, 8)).eval()
    with pytest.raises(BadInput, match="no grid of it"):
        LayerCAM(model, "layers.0.blocks.0.attn")(images(1, (224, 224)))
    plain = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48, num_heads=2).eval()
    plain.blocks[0].attn.fused_attn = False
    with pytest.raises(BadInput, match="attention matrix"):
        LayerCAM(plain, "blocks.0.attn.attn_drop")(images(1, (224, 224)))
    assert [x.name for x in find_layers(plain, "last", images(1, (224, 224)))] == ["blocks.1.norm1"]


def test_threads_share_a_network():
    model, _ = twins()
    batches = [images(1) for _ in range(40)]
    attribution = LayerCAM(model, "stages")
    expected = [attribution(batch, [1]) for batch in batches]
    flags = [p.requires_grad for p in model.parameters()]
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda batch: attribution(batch, [1]), batches))
        own = list(pool.map(lambda batch: LayerCAM(model, "stages")(batch, [1]), batches))
    for maps, others, right in zip(shared, own, expected, strict=True):
        assert torch.equal(maps, right)
        assert torch.equal(others, right)
    assert [p.requires_grad for p in model.parameters()] == flags


def test_what_cannot_be_put_back_does_not_keep_the_rest_from_it():
    class Stubborn(nn.Identity):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "training" and value and getattr(self, "armed", False):
                raise RuntimeError("no")
            super().__setattr__(name, value)

    model = Stages().train()
    model.odd = Stubborn()
    model.odd.armed = True
    with pytest.raises(RuntimeError, match="no"), undisturbed(model):
        pass
    assert all(p.requires_grad for p in model.parameters())
    assert model.fc.training
    assert model.training


@every
def test_autocast_around_a_call_changes_nothing(name: str):
    model, batch = Stages().eval(), images()
    expected = METHODS[name](model)(batch, [2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(METHODS[name](model)(batch, [2]), expected)


class Cosine(nn.Module):
    """Scores as of CLIP: a hundred times a cosine, with a temperature in another precision before the tower."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(100.0))
        self.tower, self.classes = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.Linear(16, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = F.normalize(F.relu(self.tower(x)).mean((2, 3)), dim=1)
        return self.logit_scale.to(features.dtype) * F.linear(features, F.normalize(self.classes.weight, dim=1))


@pytest.mark.parametrize("name", ["gradcam", "layercam", "scorecam"])
def test_steep_scores_in_half_precision(name: str):
    model, batch = Cosine().eval(), images()
    expected = METHODS[name](model, "tower")(batch)
    model.tower.half()
    model.classes.half()
    maps = METHODS[name](model, "tower")(batch)
    assert maps.amax() == 1
    assert (maps - expected).abs().mean() < 0.05


@every
def test_what_is_not_a_number_is_told(name: str):
    model, _ = twins()
    with torch.no_grad():
        model.c2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match=r"not (a )?numbers?"):
        METHODS[name](model, "stages")(images())


@every
@pytest.mark.parametrize("reentrant", [True, False])
def test_blocks_that_are_computed_again(name: str, reentrant: bool):
    class Again(Stages):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = checkpoint(lambda v: self.pool(self.r1(self.c1(v))), x, use_reentrant=reentrant)
            x = checkpoint(lambda v: self.pool(self.r2(self.c2(v))), x, use_reentrant=reentrant)
            return self.fc(self.r3(self.c3(x)).mean((2, 3)))

    one, other = twins(Again)
    batch = images()
    for found, expected in zip(*(METHODS[name](m, "stages").layer_maps(batch) for m in (one, other)), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    batch.requires_grad_()
    one(batch).sum().backward()  # and its own training goes on as before
    assert one.c1.weight.grad is not None


@every
def test_weights_made_under_inference_mode(name: str):
    with torch.inference_mode():
        model = Stages().eval()
    _, other = twins()
    other.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
    batch = images()
    assert torch.equal(METHODS[name](model, "stages")(batch), METHODS[name](other, "stages")(batch))
    assert all(p.is_inference() for p in model.parameters())


@pytest.mark.parametrize("name", ["gradcam", "layercam", "normgrad"])
def test_a_fixed_number_of_images(name: str):
    class Fixed(Stages):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.view(3, 3, 64, 64) if len(x) == 3 else 1 / 0)

    one, other = twins(Fixed)
    batch = images(3)
    for found, expected in zip(*(METHODS[name](m, "stages").layer_maps(batch) for m in (one, other)), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_a_network_that_needs_its_images_in_one_piece():
    class Whole(Stages):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.is_contiguous()
            return super().forward(x)

    one, other = twins(Whole)
    batch = images()
    assert torch.allclose(LayerCAM(one, "stages")(batch), LayerCAM(other, "stages")(batch), atol=1e-5)


class Asked(nn.Module):
    """An image and a question; the score of an answer depends on both."""

    def __init__(self) -> None:
        super().__init__()
        self.tower, self.words = Stages(), nn.Embedding(7, 5)

    def forward(self, question: torch.Tensor, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"answers": self.tower(pixel_values) * self.words(question)}


@every
def test_inputs_beyond_the_images(name: str):
    model, batch = Asked().eval(), images(3)
    question = torch.tensor([0, 4, 6])
    attribution = METHODS[name](model, "tower.r3", score=lambda output: output["answers"])
    together = attribution.layer_maps(batch, [1], inputs={"question": question, "pixel_values": batch})[0]
    for row in range(3):
        one, asked = batch[row : row + 1], question[row : row + 1]
        (alone,) = attribution.layer_maps(one, [1], inputs=(asked, one))
        assert torch.allclose(together[row], alone[0], atol=1e-6)
    with pytest.raises(BadInput, match="must be one of them"):
        attribution(batch, inputs=(question, batch.clone()))


@pytest.mark.parametrize("memory", [1, 1 << 32])
def test_scores_of_each_image_its_own(memory: int):
    """As of a pixel of a segmentation, which lies elsewhere in every image."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()
    places = torch.tensor([[3, 4], [10, 2], [5, 5]])
    batch = images(3, (16, 16))

    def at(output: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.stack([o[:, y, x] for o, (y, x) in zip(output, places[rows].tolist(), strict=True)])

    (maps,) = LayerCAM(model, "1", score=at, memory=memory).layer_maps(batch, [2])
    features = model[1](model[0](batch)).detach()
    weight = model[2].weight[2, :, 0, 0].detach().clamp_min(0)
    for row, (y, x) in enumerate(places.tolist()):
        expected = torch.zeros(16, 16)
        expected[y, x] = (features[row, :, y, x] * weight).sum()
        assert torch.allclose(maps[row, 0], expected, atol=1e-6)


RECTIFIERS = {
    "clamp": lambda x: x.clamp(min=0),
    "clamp in place": lambda x: x.clone().clamp_(0),
    "clip": lambda x: torch.clip(x, 0, 6),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "max": lambda x: torch.max(x, torch.zeros_like(x)),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 50.0),
}


@pytest.mark.parametrize("name", list(RECTIFIERS))
def test_rectifiers_in_any_dress_are_guided(name: str):
    class Dressed(Stages):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rectify = RECTIFIERS[name]
            x = self.pool(rectify(self.c1(x)))
            x = self.pool(rectify(self.c2(x)))
            return self.fc(rectify(self.c3(x)).mean((2, 3)))

    one, other = twins(Dressed)
    batch = images()
    assert torch.allclose(GuidedBackprop(one).gradients(batch), GuidedBackprop(other).gradients(batch), atol=1e-6)


def test_what_is_not_guided_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    model(images(1, (16, 16)))
    guided = GuidedBackprop(model)
    guided(images(1, (16, 16)))
    assert guided.left_alone == ("gelu",)


def test_memory_stays_flat():
    """No call leaves anything behind that the next one does not need."""
    import gc

    model, batch = Stages().eval(), images(1, (16, 16))
    attribution = GradientMaps(model, "stages", FORMULAS)

    def alive() -> int:
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    attribution(batch, [0, 1])
    before = alive()
    for _ in range(200):
        attribution(batch, [0, 1])
        CAM(model)(batch)
    assert alive() <= before + 2


def test_networks_that_cannot_be_looked_into():
    model, _ = twins()
    batch = images()
    int8 = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    (maps,) = ScoreCAM(int8).layer_maps(batch, [1])
    (expected,) = ScoreCAM(model).layer_maps(batch, [1])
    assert (maps - expected).abs().max() < 0.05 * expected.max()
    with pytest.raises(BadInput, match="use scorecam"):
        GradCAM(int8)(batch, [1])
    for program in (
        torch.jit.script(model),
        torch.jit.trace(model, batch),
        torch.export.export(model, (batch,)).module(),
    ):
        for kind in (GradCAM, ScoreCAM):
            with pytest.raises(BadInput, match="layers cannot be watched"):
                kind(program)(batch, [1])
