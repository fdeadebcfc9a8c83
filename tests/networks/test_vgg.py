import pytest
import timm
import torch

from tagseg.errors import BadInput
from tagseg.networks.backbone import Backbone


@pytest.mark.parametrize(("stride", "pools"), [(None, 5), (32, 5), (16, 4), (8, 4)])
@pytest.mark.parametrize("name", ["vgg11", "vgg16", "vgg16_bn"])
def test_strides(name: str, stride: int | None, pools: int):
    backbone = Backbone(name, "random", stride)
    assert backbone.stride == (stride or 32)
    assert backbone(torch.zeros(1, 3, 64, 96)).shape == (1, 512, 64 // backbone.stride, 96 // backbone.stride)
    layers = backbone.network.features
    assert sum(isinstance(layer, torch.nn.MaxPool2d) for layer in layers) == pools
    dilated = [layer.dilation for layer in layers if isinstance(layer, torch.nn.Conv2d)]
    last = 3 if "16" in name else 2
    assert dilated[-last:] == [(2, 2) if stride == 8 else (1, 1)] * last
    assert set(dilated[:-last]) == {(1, 1)}


def test_a_stride_that_vgg_does_not_have():
    with pytest.raises(BadInput, match="output_stride=4: 'vgg16' does not offer it"):
        Backbone("vgg16", "random", 4)


def test_weights_of_the_whole_network_fit(tmp_path):
    """Those with fully connected layers, as they are published; the convolutions are taken as they are."""
    whole = timm.create_model("vgg11", num_classes=7)
    path = tmp_path / "vgg11.pth"
    torch.save(whole.state_dict(), path)
    backbone = Backbone("vgg11", str(path), 8)
    for key, value in backbone.network.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[key])
    assert not any("pre_logits" in key for key in backbone.state_dict())
