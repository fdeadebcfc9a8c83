from pathlib import Path

import pytest
import torch
from torch import nn

from tagseg.attribution import (
    CAM,
    AblationCAM,
    ContrastiveExcitation,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    GradientMaps,
    GuidedBackprop,
    HiResCAM,
    LayerCAM,
    NormGrad,
    ScoreCAM,
    XGradCAM,
)
from tagseg.attribution.calling import Caller
from tagseg.attribution.capture import Tape
from tagseg.attribution.crops import ten_crops
from tagseg.attribution.formulas import FORMULAS
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import find_layers
from tagseg.errors import BadInput
from tests.attribution.networks import ClassConvolution, Plain, Pooled, Side, Wrapped

ATTRIBUTIONS = {
    "cam": CAM,
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "gradcam++ official": lambda model, **k: GradCAMPlusPlus(model, compat="official", **k),
    "layercam": LayerCAM,
    "layercam stages": lambda model, **k: LayerCAM(model, "stages", **k),
    "layercam-normal": lambda model, **k: LayerCAM(model, relu_gradients=False, **k),
    "normgrad": NormGrad,
    "xgradcam": XGradCAM,
    "hirescam": HiResCAM,
    "eigencam": EigenCAM,
    "scorecam": ScoreCAM,
    "ablationcam": AblationCAM,
    "cmwp": ContrastiveExcitation,
    "guided": GuidedBackprop,
}
every = pytest.mark.parametrize("name", list(ATTRIBUTIONS))


def images(count: int = 2, size: tuple[int, int] = (24, 32)) -> torch.Tensor:
    return torch.randn(count, 3, *size)


@every
@pytest.mark.parametrize("size", [(24, 32), (17, 23)])
def test_maps_of_all_classes_in_zero_to_one(name: str, size: tuple[int, int]):
    maps = ATTRIBUTIONS[name](Pooled())(images(size=size), torch.tensor([[0, 3, 2], [1, 1, 0]]))
    assert maps.shape == (2, 3, *size)
    assert torch.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() <= 1
    highest = maps.amax(dim=(2, 3))
    assert ((highest - 1).abs() < 1e-6).logical_or(highest == 0).all()


@every
def test_the_model_comes_out_as_it_went_in(name: str):
    model = Pooled()
    model.norm.eval()
    model.first.weight.requires_grad_(False)
    model.linear.bias.grad = torch.ones(4)
    calls = []
    model.second.register_forward_hook(lambda *_: calls.append(1))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]

    def unchanged() -> bool:
        return (
            all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
            and modes == [m.training for m in model.modules()]
            and flags == [p.requires_grad for p in model.parameters()]
            and [p.grad is None for p in model.parameters()] == [True] * 7 + [False]
            and hooks
            == [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
        )

    attribution = ATTRIBUTIONS[name](model)
    attribution(images(), [1])
    assert unchanged()
    assert calls
    with pytest.raises(BadInput, match="out of range"):
        attribution(images(), [4])
    assert unchanged()
    model.linear.forward = lambda values: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        attribution(images(), [1])
    assert unchanged()


@every
def test_a_constant_image_gives_no_nan(name: str):
    model = Pooled()
    with torch.no_grad():
        model.linear.weight.zero_()
    maps = ATTRIBUTIONS[name](model)(torch.zeros(1, 3, 24, 24), [0])
    assert torch.isfinite(maps).all()


@every
def test_frozen_and_under_inference_mode(name: str):
    model = Pooled().requires_grad_(False)
    batch = images()
    expected = ATTRIBUTIONS[name](model)(batch, [2])
    with torch.inference_mode():
        inside = batch.clone()
        assert torch.equal(ATTRIBUTIONS[name](model)(inside, [2]), expected)
    with torch.no_grad():
        assert torch.equal(ATTRIBUTIONS[name](model)(batch, [2]), expected)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
@every
def test_wrapped_models(name: str, wrap):
    model, batch = Pooled(), images()
    assert torch.equal(ATTRIBUTIONS[name](wrap(model))(batch, [2]), ATTRIBUTIONS[name](model)(batch, [2]))


def test_a_distributed_model(tmp_path: Path):
    model, batch = Pooled(), images()
    expected = LayerCAM(model, "stages")(batch, [2])
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert torch.equal(LayerCAM(nn.parallel.DistributedDataParallel(model), "stages")(batch, [2]), expected)
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_compiled_in_place():
    model, batch = Plain().eval(), images()
    expected = LayerCAM(model, "stages")(batch, [2])
    model.compile(backend="eager")
    model(batch)
    assert torch.equal(LayerCAM(model, "stages")(batch, [2]), expected)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name: str, dtype: torch.dtype):
    model, batch = Pooled(), images()
    expected = ATTRIBUTIONS[name](model)(batch, [2])
    maps = ATTRIBUTIONS[name](model.to(dtype))(batch, [2])
    assert maps.dtype == torch.float32 or name == "guided"
    assert (maps - expected).abs().mean() < 0.1


@pytest.mark.parametrize("name", [n for n in ATTRIBUTIONS if n != "cam"])
@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_score_function_picks_the_number(name: str, kind: str):
    model, batch = Wrapped(kind), images()
    score = (lambda output: output["logits"]) if kind == "dict" else (lambda output: output[0])
    expected = ATTRIBUTIONS[name](model.inner)(batch, [2])
    assert torch.equal(ATTRIBUTIONS[name](model, score=score)(batch, [2]), expected)
    with pytest.raises(BadInput, match="score="):
        ATTRIBUTIONS[name](model)(batch, [2])


@pytest.mark.parametrize("layer", ["stage1.0", "stage1.1", "stage2.0"])
def test_operations_in_place_change_nothing(layer: str):
    inplace, apart = Plain(True), Plain(False)
    apart.load_state_dict(inplace.state_dict())
    batch = images()
    for formula in FORMULAS.values():
        maps = [GradientMaps(m, [layer, "stage3.1"], {"m": formula})(batch, [0, 4])["m"] for m in (inplace, apart)]
        for one, other in zip(*maps, strict=True):
            assert torch.allclose(one, other, atol=1e-7)


def test_a_network_that_insists_on_its_memory_layout():
    class Views(Plain):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.pool(self.stage3(self.stage2(self.stage1(images))))
            return self.fc(features.view(len(images), -1))

    model, other, batch = Views(), Plain(), images()
    other.load_state_dict(model.state_dict())
    assert torch.allclose(LayerCAM(model, "stages")(batch), LayerCAM(other, "stages")(batch), atol=1e-6)


def test_one_forward_for_all_layers_images_and_classes():
    model, calls = Plain(), []
    maps = GradientMaps(model, "stages", FORMULAS)
    batch = images(4)
    maps(batch, [0])
    model.stage1[0].register_forward_hook(lambda *_: calls.append(1))
    maps(batch, [0, 1, 2])
    assert len(calls) == 1


@pytest.mark.parametrize("memory", [1, 200_000])
def test_in_turns_within_the_memory_bound(memory: int):
    model, batch = Plain(), images(5)
    classes = torch.tensor([[0, 1], [2, 3], [4, 0], [1, 2], [3, 4]])
    whole = LayerCAM(model, "stages").layer_maps(batch, classes)
    attribution, sizes = LayerCAM(model, "stages", memory=memory), []
    attribution.layer_maps(batch[:1])  # layers are found with a few images at once
    model.stage1[0].register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    for one, other in zip(whole, attribution.layer_maps(batch, classes), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert sum(sizes) >= 5
    if memory == 1:
        assert max(sizes) == 1


def test_classes_at_once_and_one_by_one_are_equal():
    model, batch = Plain(), images()
    classes = torch.tensor([[0, 1, 2], [4, 4, 3]])
    with undisturbed(model):
        tape = Tape(Caller(model), find_layers(model, "stages", batch))
        formulas = list(FORMULAS.values())
        recorded = tape.forward(batch)
        picked = recorded.scores.gather(1, classes)
        one = tape._one_by_one(recorded, picked, formulas, (24, 32), 1.0)
        recorded = tape.forward(batch)
        picked = recorded.scores.gather(1, classes)
        other = tape._all_at_once(recorded, picked, formulas, (24, 32), 1.0)
    for of_layer, other_of_layer in zip(one, other, strict=True):
        for maps, other_maps in zip(of_layer, other_of_layer, strict=True):
            assert torch.allclose(torch.stack(maps), torch.stack(other_maps), atol=1e-6)


def test_classes_as_numbers_rows_function_or_nothing():
    model, batch = Plain().eval(), images()
    scores = model(batch)
    attribution = LayerCAM(model)
    best = scores.argmax(dim=1, keepdim=True)
    assert torch.equal(attribution(batch), attribution(batch, best))
    assert torch.equal(attribution(batch, lambda s: s.argmax(dim=1, keepdim=True)), attribution(batch, best))
    assert torch.equal(attribution(batch, 3), attribution(batch, [[3], [3]]))


def test_cam_is_grad_cam_on_a_pooled_network_up_to_the_constant():
    model, batch = Pooled(), images()
    with torch.no_grad():
        (cam,) = CAM(model).layer_maps(batch, [0, 1, 2, 3])
    (grad,) = GradCAM(model, "second").layer_maps(batch, [0])
    cells = cam.shape[2] * cam.shape[3]
    with torch.no_grad():
        model.eval()
        features = model.second(torch.relu(model.norm(model.first(batch)))).relu()
        expected = torch.einsum("kd,bdhw->bkhw", model.linear.weight, features)
        means = expected.mean(dim=(2, 3)) + model.linear.bias
        assert torch.allclose(means, model(batch), atol=1e-5)
    assert torch.allclose(cam, expected, atol=1e-6)
    assert grad.shape[2] * grad.shape[3] == cells


@pytest.mark.parametrize("seed", range(3))
def test_closed_forms_on_a_network_that_is_linear_behind_the_layer(seed: int):
    torch.manual_seed(seed)

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.ReLU())
            self.head = nn.Linear(7, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x).mean(dim=(2, 3)))

    model, batch = Linear().eval(), images(size=(9, 11))
    cells = 9 * 11
    a = model.features(batch).detach()
    w = model.head.weight.detach()
    (cam,) = CAM(model).layer_maps(batch, [0, 1, 2])
    (grad_cam,) = GradCAM(model, "features").layer_maps(batch, [0, 1, 2])
    assert torch.allclose(grad_cam * cells, cam.relu(), atol=1e-5)
    (normal,) = LayerCAM(model, "features", relu_gradients=False).layer_maps(batch, [0, 1, 2])
    assert torch.allclose(normal, grad_cam, atol=1e-7)  # the gradient is constant
    (layer,) = LayerCAM(model, "features").layer_maps(batch, [0, 1, 2])
    assert torch.allclose(layer * cells, torch.einsum("kd,bdhw->bkhw", w.relu(), a), atol=1e-5)
    for kind in (XGradCAM, HiResCAM):  # where the gradient is constant all three are one
        assert torch.allclose(kind(model, "features").layer_maps(batch, [0, 1, 2])[0], grad_cam, atol=1e-6)
    (eigen,) = EigenCAM(model, "features").layer_maps(batch, [0, 1])
    for image in range(2):
        _, values, vectors = torch.linalg.svd(a[image].flatten(1).T, full_matrices=False)
        flat = a[image].flatten(1).T @ vectors[0]
        expected = (flat * flat.sum().sign()).view(9, 11).relu()
        assert torch.allclose(eigen[image, 0], expected, atol=1e-4 * float(values[0]))
    (ablation,) = AblationCAM(model, "features").layer_maps(batch, [0, 1])
    lost = w[None, :2] * a.mean(dim=(2, 3))[:, None] / model(batch)[:, :2, None].detach().abs()
    assert torch.allclose(ablation, torch.einsum("bkd,bdhw->bkhw", lost, a).relu(), atol=1e-4)
    (norm,) = NormGrad(model, "features").layer_maps(batch, [0])
    assert torch.allclose(norm[:, 0] * cells, a.norm(dim=1) * w[0].norm(), atol=1e-5)
    (plus,) = GradCAMPlusPlus(model, "features").layer_maps(batch, [0])
    g = w[0].relu() / cells
    weights = cells * g / (2 + a.sum(dim=(2, 3)) * g)
    assert torch.allclose(plus[:, 0], torch.einsum("bd,bdhw->bhw", weights, a), atol=1e-6)


def test_cam_of_a_class_convolution_is_its_channel():
    model, batch = ClassConvolution().eval(), images()
    with torch.no_grad():
        expected = model.classes(model.trunk(batch))
    assert torch.equal(CAM(model).layer_maps(batch, [0, 1, 2, 3])[0], expected)
    assert [layer.name for layer in find_layers(model, "last", batch[:1])] == ["trunk"]


def test_cam_refuses_other_networks():
    with pytest.raises(BadInput, match="use gradcam or layercam"):
        CAM(Plain())(images())


def test_guided_gradients_have_signs_and_need_a_relu():
    assert GuidedBackprop(Plain()).gradients(images(), [0, 1]).shape == (2, 2, 3, 24, 32)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(BadInput, match="ReLU"):
        GuidedBackprop(model)(images())


def test_guided_backpropagation_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2, 0], [0, 1, -1]])[..., None, None])
        model[3].weight.copy_(torch.tensor([[-1.0, 3.0]]))
    image = torch.tensor([1.0, 2.0, -1.0]).view(1, 3, 1, 1)
    # the first unit's gradient is negative and stops; the second's passes
    assert GuidedBackprop(model).gradients(image, [0]).flatten().tolist() == [0, 3, -3]


def test_ten_crops_are_pasted_back_where_they_came_from():
    batch = torch.arange(36.0).view(1, 1, 6, 6).expand(1, 3, 6, 6)
    maps = ten_crops(lambda crops, _: crops[:, :1], batch, torch.zeros(1, 1, dtype=torch.long), side=4)
    counts = ten_crops(
        lambda crops, _: torch.ones_like(crops[:, :1]), batch, torch.zeros(1, 1, dtype=torch.long), side=4
    )
    ratio = maps / counts
    assert torch.allclose(ratio / ratio.max(), batch[:, :1] / 35)
    with pytest.raises(BadInput, match="ten crops of 8"):
        ten_crops(lambda crops, _: crops, batch, torch.zeros(1, 1), side=8)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("stage4.0", "near names: stage"),
        ("branch", "does not depend on it"),
        ("idle", "not used when the model is called"),
        ("fc.0", "neither a grid"),
        (nn.Conv2d(3, 3, 1), "not part of the model"),
        (["stage1.1", "stage1.1"], "given twice"),
        ([], "at least one layer"),
    ],
)
def test_layers_that_do_not_do(layers, message: str):
    with pytest.raises(BadInput, match=message):
        LayerCAM(Side(), layers)(images())


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([5], "class 5 is out of range"),
        ([-1], "out of range"),
        ([[0], [1], [2]], "do not fit"),
        ([0.5], "whole numbers"),
    ],
)
def test_classes_that_do_not_do(classes, message: str):
    with pytest.raises(BadInput, match=message):
        LayerCAM(Plain())(images(), classes)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, 8, 8), "images must be"),
        ("photo.jpg", "images must be"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "images must be"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN"),
        (torch.zeros(0, 3, 8, 8), "no image"),
    ],
)
def test_images_that_do_not_do(batch, message: str):
    with pytest.raises(BadInput, match=message):
        LayerCAM(Plain())(batch)


def test_a_model_without_convolutions():
    with pytest.raises(BadInput, match="no convolution"):
        LayerCAM(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)))(images(1, (8, 8)))
