"""Batch normalisations that several GPUs share."""

import pytest
import torch

from tagseg.networks.backbone import Backbone
from tagseg.pipeline.training import SharedNorms


@pytest.mark.parametrize("name", ["mobilenetv2_100", "test_resnet"])
def test_they_keep_their_activation(name: str):
    """Torch's own conversion drops it of timm's layers that have one, and the network learns without."""
    backbone, images = Backbone(name, "random", 16).eval(), torch.rand(1, 3, 64, 64)
    before, keys = backbone(images), list(backbone.state_dict())
    shared = SharedNorms().apply(backbone)
    assert torch.equal(shared(images), before)
    assert list(shared.state_dict()) == keys
    kinds = [module for module in shared.modules() if isinstance(module, torch.nn.SyncBatchNorm)]
    assert kinds
    assert not any(type(module) is torch.nn.BatchNorm2d for module in shared.modules())
