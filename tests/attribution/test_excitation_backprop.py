"""Excitation backpropagation beside the paper's rule, layer by layer."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.attribution import ContrastiveExcitation
from tagseg.errors import BadInput


class Plain(nn.Module):
    """Convolutions, ReLUs, a pooling, a linear layer."""

    def __init__(self, norms: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 8), (8, 12), (12, 16)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norms)]
            layers += [nn.BatchNorm2d(outputs)] if norms else []
            layers += [nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2)] if outputs == 8 else []
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(16, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def winners(network: Plain, images: torch.Tensor, number: int, sign: float) -> dict[int, torch.Tensor]:
    """Where a class's winner passes, p_j = sum_i p_i w+_ij a_j / sum_k w+_ik a_k, by the number of the layer."""
    values = [images]
    for layer in network.features:
        values.append(layer(values[-1].clone()).detach())
    last = values[-1]
    p = last.mean(dim=(2, 3)) * (sign * network.classifier.weight[number]).clamp(min=0).detach()
    p = p / p.sum(dim=1, keepdim=True)
    p = p[:, :, None, None] * last / last.sum(dim=(2, 3), keepdim=True).clamp(min=1e-30)
    found = {len(network.features) - 1: p}
    for place in reversed(range(len(network.features))):
        layer, inputs = network.features[place], values[place].clone().requires_grad_()
        if isinstance(layer, nn.MaxPool2d):
            (p,) = torch.autograd.grad(layer(inputs), inputs, p)
        elif isinstance(layer, nn.Conv2d):
            excited = F.conv2d(inputs, layer.weight.clamp(min=0).detach(), padding=1)
            (back,) = torch.autograd.grad(excited, inputs, p / (excited.detach() + 1e-20))
            p = inputs.detach() * back
        found[place - 1] = p
    return found


def test_it_is_the_rule():
    torch.manual_seed(0)
    network, images = Plain().eval(), torch.rand(2, 3, 16, 16)
    layers = ["features.1", "features.4", "features.6"]
    plain = ContrastiveExcitation(network, layers, contrastive=False).layer_maps(images, [1, 3])
    against = ContrastiveExcitation(network, layers).layer_maps(images, [1, 3])
    for k, number in enumerate((1, 3)):
        found, negated = (winners(network, images, number, sign) for sign in (1.0, -1.0))
        for place, of_layer, contrasted in zip((1, 4, 6), plain, against, strict=True):
            wanted = found[place].sum(dim=1)
            torch.testing.assert_close(of_layer[:, k], wanted, rtol=1e-4, atol=1e-7)
            wanted = (wanted - negated[place].sum(dim=1)).relu()
            torch.testing.assert_close(contrasted[:, k], wanted, rtol=1e-4, atol=1e-7)
            assert of_layer[:, k].sum(dim=(1, 2)).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_a_normalisation_is_part_of_the_convolution_before_it():
    torch.manual_seed(1)
    network = Plain(norms=True).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)
    folded = Plain().eval()
    folded.classifier = network.classifier
    convolutions = [m for m in folded.features if isinstance(m, nn.Conv2d)]
    pairs = [(c, n) for c, n in zip(network.features, network.features[1:], strict=False) if isinstance(c, nn.Conv2d)]
    for target, (source, norm) in zip(convolutions, pairs, strict=True):
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        target.weight.data, target.bias.data = source.weight * factor[:, None, None, None], norm.bias.detach()
    images = torch.rand(2, 3, 16, 16)
    one = ContrastiveExcitation(network, ["features.2"]).layer_maps(images, [0, 2])
    other = ContrastiveExcitation(folded, ["features.1"]).layer_maps(images, [0, 2])
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-6)


def test_a_map_does_not_depend_on_which_others_are_asked_for():
    torch.manual_seed(2)
    network = Plain(norms=True).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    images, layers = torch.rand(2, 3, 16, 16), ["features.2", "features.4", "features.6"]
    together = ContrastiveExcitation(network, layers).layer_maps(images, [1])
    for layer, maps in zip(layers, together, strict=True):
        torch.testing.assert_close(ContrastiveExcitation(network, [layer]).layer_maps(images, [1])[0], maps)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_any_convolutional_network_passes_a_winner_on(name: str):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=4).eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    method = ContrastiveExcitation(network, "stages", contrastive=False)
    for of_layer in method.layer_maps(images):
        total = of_layer.sum(dim=(2, 3))
        # of networks with ReLUs at most 1; where signed branches are added, shares may be negative and others larger
        assert ((total >= 0) & (total <= (1.5 if name == "test_convnext" else 1.001))).all()
    assert of_layer.sum(dim=(2, 3)).min() > 0.5
    assert ContrastiveExcitation(network)(images, [1]).shape == (2, 1, 64, 64)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_a_transformer_is_refused():
    with pytest.raises(BadInput, match="needs a convolutional network"):
        ContrastiveExcitation(timm.create_model("test_vit")).layer_maps(torch.randn(1, 3, 160, 160))


class TwoHeads(nn.Module):
    """A classifier that has a second head, which says nothing of its scores."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.first, self.second = first, second

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.features(images)
        scores = self.first(features).mean(dim=(2, 3))
        self.second(features)
        return scores


def test_a_head_that_is_not_asked_changes_nothing():
    first, second = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 5, 1)
    network, images = TwoHeads(first, second), torch.rand(2, 3, 8, 8)
    alone = ContrastiveExcitation(
        nn.Sequential(network.features, first, nn.AdaptiveAvgPool2d(1), nn.Flatten()), ["0.1"]
    )
    both = ContrastiveExcitation(network, ["features.1"]).layer_maps(images, [0, 2])[0]
    torch.testing.assert_close(both, alone.layer_maps(images, [0, 2])[0])
    assert both.any()
