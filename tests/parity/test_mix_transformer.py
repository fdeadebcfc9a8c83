"""The mix transformer, the products of its last attention and SegFormer's head against AFA's published code
(rulixiang/afa, commit adcfa29; its two files are NVIDIA's), at a stride of 16.

`data/mix_transformer.npz` is what MiT-B0 and the head make of one image of 65 x 65 pixels, every weight being a wave.
"""

from pathlib import Path

import numpy as np
import torch

from tagseg.grid import Grid
from tagseg.networks.attending import Attending
from tagseg.networks.mix_transformer import MixTransformer, from_published
from tagseg.segmentation.deeplab import SegFormerHead
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "mix_transformer.npz") as arrays:
    REFERENCE = {key: arrays[key] for key in arrays}


def wave(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights of a published name."""
    values = np.sin(0.7 * np.arange(np.prod(shape)) + len(name)).reshape(shape).astype(np.float32)
    if name.endswith("running_var"):
        return torch.from_numpy(1 + 0.5 * values)
    scale = ("norm" in name or "bn" in name) and name.endswith("weight")
    return torch.from_numpy(1 + 0.1 * values if scale else 0.05 * values)


@torch.no_grad()
def test_features_attention_and_logits():
    network = MixTransformer("mit_b0", 16).eval()
    published = {name.replace("dwconv.", "dwconv.dwconv."): value for name, value in network.state_dict().items()}
    network.load_state_dict(from_published({name: wave(name, value.shape) for name, value in published.items()}))
    image = 2 * np.sin(np.arange(3 * 65 * 65) * 0.013).reshape(1, 3, 65, 65).astype(np.float32)
    with Attending(network.last_attentions) as seen:
        stages = network.forward_intermediates(torch.from_numpy(image), intermediates_only=True)
    assert_close(stages[0][:, ::4, ::2, ::2].numpy(), REFERENCE["finest"], 1e-4)
    assert_close(stages[3][:, ::2].numpy(), REFERENCE["coarsest"], 1e-4)
    last = seen.calls[-1]
    products = last.queries @ last.keys.transpose(2, 3) / network.last_attentions[-1].scale
    assert_close(products[:, :3].numpy(), REFERENCE["products"], 1e-4)

    head = SegFormerHead((32, 64, 160, 256), 4, Grid(16, corners=False)).eval()  # which resizes so, as published
    named = {"fuse.weight": "linear_fuse.conv.weight"}
    named |= {f"exit.{part}": f"linear_pred.{part}" for part in ("weight", "bias")}
    named |= {f"norm.{part}": f"linear_fuse.bn.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    named |= {f"linear.{n}.{part}": f"linear_c{n + 1}.proj.{part}" for n in range(4) for part in ("weight", "bias")}
    weights = {own: wave(name, head.state_dict()[own].squeeze().shape) for own, name in named.items()}
    found = head.load_state_dict(
        {own: value.view(head.state_dict()[own].shape) for own, value in weights.items()}, strict=False
    )
    assert set(found.missing_keys) <= {"norm.num_batches_tracked"}
    assert_close(head(stages).numpy(), REFERENCE["logits"], 1e-4)
