"""Segmenter's head and WeakTr's clipped loss against WeakTr's code (hustvl/WeakTr, commit 3457ad3, MIT licence).

`data/segmenter.npz` is what its `MaskTransformer` makes of features of 12 channels with numbers drawn for all weights,
and what its `GradientClipping` makes of the losses of three photographs, with squares of 4 places, and the gradients of
that.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from tagseg.segmentation.losses import clipped_loss, segmentation_loss
from tagseg.segmentation.mask_transformer import MaskTransformer
from tests.parity.golden import assert_close

with np.load(Path(__file__).parent / "data" / "segmenter.npz") as arrays:
    REFERENCE = {key: torch.from_numpy(arrays[key]) for key in arrays}
NAMES = {
    "blocks": "layers",
    "proj_dec": "entry",
    "decoder_norm": "norm",
    "proj_patch": "of_patches",
    "proj_classes": "of_classes",
}
INSIDE = {
    "self_attn.in_proj_": "attn.qkv.",
    "self_attn.out_proj.": "attn.proj.",
    "linear1.": "mlp.fc1.",
    "linear2.": "mlp.fc2.",
}


def test_logits_of_the_head():
    r = REFERENCE
    head = MaskTransformer(12, 5).eval()
    state = {}
    for key, value in r.items():
        if key.startswith("state."):
            name = key.removeprefix("state.")
            first, dot, rest = name.partition(".")
            state[NAMES.get(first, first) + dot + rest] = value
    state["classes"] = state.pop("cls_emb")[0]
    for ours, theirs in INSIDE.items():
        state = {key.replace(theirs, ours): value for key, value in state.items()}
    head.load_state_dict(state)
    assert_close(head(r["features"]).detach().numpy(), r["logits"].numpy())


@pytest.mark.parametrize("start", [0.1, 5.0])
def test_what_is_clipped(start: float):
    r = REFERENCE
    logits = r["clip_logits"].clone().requires_grad_()
    loss = clipped_loss(logits, r["clip_labels"].long(), start, 4)
    loss.backward()
    assert_close(loss.detach().numpy()[None], r[f"loss_{start}"].numpy()[None])
    assert logits.grad is not None
    assert_close(logits.grad.numpy(), r[f"grad_{start}"].numpy())
    plain = segmentation_loss(r["clip_logits"], r["clip_labels"].long())
    assert (loss < plain) == (start == 5.0)


def test_what_has_no_label_counts_nowhere():
    """Squares reach over the edge, and unlabelled places change neither means nor counts."""
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 4, 6, 7), torch.randint(0, 4, (2, 6, 7))
    masks[:, :, 5:] = 255
    found = clipped_loss(logits, masks, 50.0, 5)
    torch.testing.assert_close(found, clipped_loss(logits[..., :5], masks[..., :5], 50.0, 5))
    entropy = torch.nn.functional.cross_entropy(logits[..., :5], masks[..., :5], reduction="none")
    most = torch.stack([entropy[:, :5].mean(), entropy[:, 5:].mean()]).clamp(min=entropy.mean())
    expected = torch.cat([entropy[:, :5].clamp(max=most[0]), entropy[:, 5:].clamp(max=most[1])], dim=1).mean()
    torch.testing.assert_close(found, expected)
    nothing = clipped_loss(logits.requires_grad_(), torch.full_like(masks, 255), 1.0, 5)
    nothing.backward()
    assert nothing == 0
