import json
import zlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tagseg.grid import PIXELS
from tagseg.methods.l2g_targets import official_regions, official_targets, transfer_loss
from tagseg.networks.pcm import pixel_correlation
from tagseg.networks.resnet38 import ResNet38
from tagseg.pipeline.mining import fused_bicubic, to_class_maps
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


def test_multiscale_fusion():
    g = {k: torch.from_numpy(v) for k, v in golden("l2g_multiscale_fusion").items()}
    scales = [g[k].flip(-1) if k.endswith("flipped") else g[k] for k in g if k.startswith("maps_")]
    fused = fused_bicubic(scales, tuple(g["size"].tolist()))[0].numpy()
    maps = to_class_maps(fused, tuple(range(len(fused))), np.zeros(len(fused)), PIXELS).maps
    assert_close(maps, g["fused"].numpy())


def test_resnet38():
    """With weights by the rule that the reference was made with."""
    g = golden("resnet38_trunk")
    salt = str(g["salt"])
    network = ResNet38().eval()
    wanted = dict(zip(g["keys"].tolist(), map(json.loads, g["shapes"].tolist()), strict=True))
    ours = {k: list(v.shape) for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert ours == wanted
    network.load_state_dict({k: torch.from_numpy(filled(k, shape, salt)) for k, shape in wanted.items()}, strict=False)
    with torch.no_grad():
        _, stages = network.forward_intermediates(torch.from_numpy(g["image"]))
    for name, stage in zip(("conv4", "conv5", "conv6"), stages[-3:], strict=True):
        assert_close(stage.mean(dim=1).numpy(), g[f"{name}_mean"], 1e-3)
    assert_close(stages[-1].mean(dim=(2, 3)).numpy(), g["conv6_channels"], 1e-3)


def filled(key: str, shape: list[int], salt: str) -> np.ndarray:
    n = np.random.default_rng(zlib.crc32((salt + key).encode())).standard_normal(shape)
    if key.endswith("running_var"):
        n = 1 + 0.1 * np.abs(n)
    elif key.endswith("running_mean") or key.endswith("bias"):
        n = 0.1 * n
    elif len(shape) == 1:
        n = 1 + 0.1 * n
    else:
        n = n * np.sqrt(2 / np.prod(shape[1:]))
    return n.astype(np.float32)
