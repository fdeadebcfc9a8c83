"""WeakTr against its published code (hustvl/WeakTr, commit 3457ad3, MIT licence).

`data/weaktr.npz` is what its `WeakTr` makes of two images of 32 pixels: 4 classes, patches of 8 pixels, three blocks of
two heads and 24 channels, with numbers drawn for all weights.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional as F

from tagseg.methods.settings.weaktr import WeakTrSettings
from tagseg.methods.weaktr import WeakTr
from tagseg.networks import backbone
from tests.conftest import names
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "weaktr.npz") as arrays:
    REFERENCE = {key: torch.from_numpy(arrays[key]) for key in arrays}
FUSION = {
    "of_heads.0.weight": "attn_head_ffn.0.weight",
    "of_heads.2.weight": "attn_head_ffn.2.weight",
    "of_features.0.weight": "attn_feat_ffn.0.weight",
    "of_features.0.bias": "attn_feat_ffn.0.bias",
    "of_features.1.weight": "attn_feat_ffn.1.weight",
    "of_features.1.bias": "attn_feat_ffn.1.bias",
}


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> WeakTr:
    """The published network in ours: there a class token and its position are two parameters, here one."""
    published = {k.removeprefix("network."): v for k, v in REFERENCE.items() if k.startswith("network.")}
    vit: Any = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=2, mlp_ratio=2, num_classes=0, global_pool="",
        dynamic_img_size=True,
    )  # fmt: skip
    vit.pretrained_cfg = {}
    state = vit.state_dict()
    positions = published["pos_embed"]
    state |= {k: v for k, v in published.items() if k in state and k not in ("pos_embed", "cls_token")}
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 24), positions[:, 4:]], dim=1)
    vit.load_state_dict(state)
    monkeypatch.setattr(backbone, "_create", lambda *_: vit)
    settings = WeakTrSettings(drop_path=0.0, reduction=3, feature_reduction=4)
    found = WeakTr("any", "random", names(4), settings, 10)
    found.backbone.class_tokens.data = (published["cls_token"] + positions[:, :4])[0]
    found.head.load_state_dict({k: published[f"head.{k}"] for k in ("weight", "bias")})
    found.fusion.load_state_dict({k: published[f"adaptive_attention_fusion.{v}"] for k, v in FUSION.items()})
    return found


def test_logits_and_maps(network: WeakTr):
    r = REFERENCE
    seen = network.seen(r["image"])
    assert_close(seen.logits.detach().numpy(), r["class_logits"].numpy())
    assert_close(network.patch_logits(seen).detach().numpy(), r["patch_logits"].numpy())
    assert_close(network.fine_maps(seen).mean(dim=(2, 3)).detach().numpy(), r["fine_logits"].numpy())
    maps, logits = network.maps_and_logits(network.score_maps(r["image"]))
    assert_close(maps.detach().numpy(), r["refined"].numpy())
    assert_close(logits.detach().numpy(), r["class_logits"].numpy())


def test_losses(network: WeakTr):
    r = REFERENCE
    terms = network.losses(network.seen(r["image"]), r["tags"])
    loss = sum(terms.values())
    assert_close(loss.detach().numpy()[None], r["loss"].numpy()[None])
    # published parameters are in another order: those of heads first
    fusion = dict(network.fusion.named_parameters())
    found = torch.autograd.grad(terms["fine"], [fusion[key] for key in FUSION], retain_graph=True)
    for number, gradient in enumerate(found):
        assert_close(gradient.numpy(), r[f"grad_fusion_{number}"].numpy(), 1e-4)
    qkv = network.backbone.network.blocks[0].attn.qkv.weight
    for gradient, key in zip(torch.autograd.grad(loss, [network.head.weight, qkv]), ("head", "qkv"), strict=True):
        assert_close(gradient.numpy(), r[f"grad_{key}"].numpy(), 1e-4)


def test_only_the_weights_of_heads_learn_from_the_spread_maps(network: WeakTr):
    seen = network.seen(REFERENCE["image"])
    loss = F.multilabel_soft_margin_loss(network.fine_maps(seen).mean(dim=(2, 3)), REFERENCE["tags"])
    loss.backward()
    learnt = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert learnt == {f"fusion.{name}" for name in FUSION}
