"""Beside these, `attention_map` is equal to the published layer, as clovaai/wsolevaluation has it (commit 96f4b88)."""

import pytest
import torch

from tagseg.errors import BadInput
from tagseg.methods.adl import ADL, attention_map
from tests.conftest import names
from tests.methods.any_method import built


def test_the_strongest_places_are_hidden_or_stressed():
    features = torch.tensor([[[[1.0, 5.0], [4.5, 0.0]], [[1.0, 5.0], [4.5, -2.0]]]])
    assert attention_map(features, True, 0.8).tolist() == [[[[1, 0], [0, 1]]]]
    torch.testing.assert_close(attention_map(features, False, 0.8), features.mean(dim=1, keepdim=True).sigmoid())


def test_features_change_only_while_it_learns():
    network, plain = built("adl", names(3), drop_rate=1.0), built("cam", names(3))
    network.backbone.freeze(0, "frozen")
    plain.load_state_dict(network.state_dict())
    plain.eval()
    images = torch.randn(2, 3, 65, 65)
    assert not torch.equal(network.class_maps(images), plain.class_maps(images))
    assert torch.equal(network.eval().class_maps(images), plain.class_maps(images))


def test_where_features_change():
    """At the ends of the last stages, or where its layers are named; a pooling is no stage."""
    assert built("adl", names(3)).places == ("layer2", "layer3", "layer4")
    vgg = ADL("vgg11", "random", names(3), ADL.Settings(output_stride=16, stages=2), 10)
    assert vgg.places == ("features.14", "features.19")
    network = built("adl", names(3), layers=("layer3.0", "layer4"), drop_rate=1.0)
    assert network.places == ("layer3.0", "layer4")
    network.backbone.freeze(0, "frozen")
    plain = built("cam", names(3)).eval()
    plain.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 65, 65)
    assert not torch.equal(network.class_maps(images), plain.class_maps(images))


@pytest.mark.parametrize(
    ("backbone", "layers", "words"),
    [
        ("test_resnet", ("layer3.x",), "has no layer 'layer3.x'; did you mean 'layer3"),
        ("test_resnet", ("xyzzy",), "it has .*, and others"),
        ("test_resnet", ("",), "has no layer ''"),
        ("test_resnet", ("fc",), "'fc' of 'test_resnet' gives no features of places"),
        ("test_convnext", ("stages.1.blocks.0.mlp.fc1",), "gives no features of places"),  # its channels are last
        ("test_resnet", ("layer3", "layer3"), "names a layer twice"),
        ("test_vit", ("blocks.0",), "'test_vit' is none"),
    ],
)
def test_layers_that_cannot_be_changed_are_refused(backbone: str, layers: tuple[str, ...], words: str):
    with pytest.raises(BadInput, match=words):
        ADL(backbone, "random", names(3), ADL.Settings(output_stride=None, layers=layers), 10)


def test_networks_without_stages_are_refused():
    with pytest.raises(BadInput, match="ADL changes layers of a convolutional network"):
        ADL("test_vit", "random", names(3), ADL.Settings(output_stride=None), 10)


def test_the_published_descent_reaches_the_optimiser():
    """Rates of the base and of the head, norms and biases twice as fast, and a fall at every share of the steps."""
    network = built(
        "adl", names(3), steps=10, optimiser="sgd-steps", learning_rate=0.1, head_factor=5.0, drops=(0.3, 0.8)
    )  # fmt: skip
    made = network.configure_optimizers()
    rates = {group["initial_lr"] for group in made["optimizer"].param_groups}
    assert rates == {0.1, 0.2, 0.5}
    rate = made["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [rate(step) for step in (0, 3, 8)] == pytest.approx([1, 0.1, 0.01])
