"""ReCAM against its published code (zhaozhengChen/ReCAM, commit 2bdbcd2, MIT licence).

`data/recam.npz` is what its `Net_CAM_Feature` and `Class_Predictor` make of random features of 10 channels, of three
photographs with three, none and one of 6 classes.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from tagseg.methods.recam import ReCAM, features_of_tags, softmax_loss
from tests.conftest import names
from tests.methods.any_method import built
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "recam.npz") as arrays:
    REFERENCE = {key: torch.from_numpy(arrays[key]) for key in arrays}


def test_loss_and_what_it_sees():
    r = REFERENCE
    features, weight, softmax = (r[key].clone().requires_grad_() for key in ("features", "weight", "softmax_weight"))
    seen = features_of_tags(F.conv2d(features, weight), features, r["tags"])
    assert_close(seen.detach().numpy(), r["seen"][r["tags"] > 0].numpy())
    loss = softmax_loss(softmax[:, :, 0, 0], seen, r["tags"])
    assert_close(loss.detach().numpy()[None], r["loss"].numpy()[None])
    for found, key in zip(
        torch.autograd.grad(loss, [features, weight, softmax]), ("features", "weight", "softmax_weight"), strict=True
    ):
        assert_close(found.numpy(), r[f"grad_{key}"].numpy())


def test_class_maps():
    r = REFERENCE
    network = built("recam", names(6), products="signed")
    assert isinstance(network, ReCAM)
    network.backbone.hold()
    network.backbone.channels = 10
    network.classifier.weight.data, network.softmax_classifier.weight.data = r["weight"], r["softmax_weight"]
    maps, logits = network.maps_and_logits(network.score_maps(r["features"]))
    assert_close(maps.detach().numpy(), r["maps"].numpy())
    assert_close(logits.detach().numpy(), F.conv2d(r["features"], r["weight"]).mean(dim=(2, 3)).numpy())
    network = built("recam", names(6))  # what speaks against a class twice does not speak for it
    network.backbone.hold()
    network.backbone.channels = 10
    network.classifier.weight.data, network.softmax_classifier.weight.data = r["weight"], r["softmax_weight"]
    positive = F.conv2d(r["features"], r["weight"].clamp(min=0) * r["softmax_weight"].clamp(min=0))
    assert_close(network.class_maps(r["features"]).detach().numpy(), positive.numpy())
