import pytest
import torch

from tagseg.methods.sipe import SIPE
from tagseg.networks.backbone import Backbone


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_early_stages_stay_and_the_last_two_learn_at_any_stride(stride: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Backbone, "pretrained", True, raising=False)
    network = Backbone("resnet18", "random", stride)
    network.freeze(8, "batch")
    learns = {name.split(".")[0]: p.requires_grad for name, p in network.network.named_parameters()}
    assert learns["layer3"]
    assert learns["layer4"]
    assert not learns["layer2"]
    assert not learns["conv1"]


def test_a_prototype_of_the_background_takes_places_away(monkeypatch: pytest.MonkeyPatch):
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.3, 0.95], [0.0, 1.0], [0.0, 1.0]]).T.reshape(1, 2, 1, 5)
    maps = torch.tensor([1.0, 1.0, 0.2, 0.0, 0.0]).reshape(1, 1, 1, 5)
    found = {}
    for background in ("score", "prototype"):
        settings = SIPE.Settings(output_stride=16, background=background)
        network = SIPE("test_resnet", "random", ("thing",), settings, 10)
        monkeypatch.setattr(network, "plain_and_features", lambda _: (maps, features, features))
        found[background] = network.class_maps(torch.zeros(1, 3, 17, 65))[0, 0, 0]
    # the third place is a little like the class, and more like the background
    assert found["score"][2] > 0.3
    assert found["prototype"][2] == 0
    assert torch.equal(found["score"][:2], found["prototype"][:2])
