import pytest
import torch
from torch.nn import functional as F

from tagseg.methods.l2g import official_regions, official_targets, transfer_loss
from tagseg.networks.pcm import pixel_correlation
from tests.parity.golden import assert_close, golden


def test_pixel_correlation():
    g = {k: torch.from_numpy(v) for k, v in golden("pcm").items()}
    embedding = F.conv2d(g["embedding_input"], g["embedding_weight"])
    features = F.interpolate(g["features"], size=embedding.shape[-2:], mode="bilinear", align_corners=True)
    assert_close(pixel_correlation(features, embedding).numpy(), g["output"].numpy())


@pytest.mark.parametrize("name", ["l2g_transfer", "l2g_transfer_saliency"])
def test_transfer(name: str):
    g = {k: torch.from_numpy(v) for k, v in golden(name).items()}
    maps, local_maps = g["global_maps"].requires_grad_(), g["local_maps"]
    boxes, grid = g["boxes"].long(), local_maps.shape[-2:]
    saliency, threshold = g.get("saliency"), float(g.get("threshold", 0))
    if saliency is not None:
        saliency = F.interpolate(saliency, size=grid, mode="nearest")[:, 0]
    targets = official_targets(local_maps, g["labels"][boxes[:, 0]], saliency, threshold)
    matched = official_regions(maps, boxes, tuple(grid), stride=8)
    loss = g["weight"] * transfer_loss(matched, targets)
    loss.backward()
    assert_close(targets.numpy(), g["local_targets"].numpy())
    assert_close(matched.softmax(dim=1).detach().numpy(), g["aligned_probabilities"].numpy())
    assert_close(loss.detach().numpy()[None], g["loss"].numpy()[None])
    assert_close(maps.grad.numpy(), g["grad_global_maps"].numpy())
