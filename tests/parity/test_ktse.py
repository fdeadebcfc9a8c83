import pytest
import torch

from tagseg.masks.rescaling import normalised
from tagseg.methods.ktse import OFFICIAL_CLASS_WEIGHT, OFFICIAL_MARGIN, KTSESettings
from tagseg.methods.ktse_losses import global_alignment, inter_loss, official_label_loss, rise_loss
from tagseg.networks.gpp import GatedPyramidPooling, agreement
from tests.parity.golden import assert_close, golden


def test_gated_pyramid_pooling():
    g = {k: torch.from_numpy(v) for k, v in golden("ktse_gpp").items()}
    maps = g["class_maps"].requires_grad_()
    pooling = GatedPyramidPooling(maps.shape[1])
    state = {
        f"gates.{i}.{sign}.weight": g[f"gate{i + 1}_{sign}_weight"]
        for i in range(len(pooling.gates))
        for sign in ("positive", "negative")
    }
    pooling.load_state_dict(state)
    pyramid = pooling(maps)
    logits = agreement(maps, pyramid)
    logits.sum().backward()
    assert_close(pyramid.detach().numpy(), g["pooled"].numpy())
    assert_close(logits.detach().numpy(), g["logits"].numpy())
    assert_close(maps.grad.numpy(), g["grad_class_maps"].numpy())


def test_normalisation():
    g = golden("ktse_max_norm")
    assert_close(normalised(torch.from_numpy(g["class_maps"]), "official").numpy(), g["output"])


def test_segmentation_losses():
    g = {k: torch.from_numpy(v) for k, v in golden("ktse_segmentation_loss").items()}
    scores, labels, settings = g["scores"].requires_grad_(), g["pseudo_labels"], KTSESettings()
    seen = g["foreground"] > settings.inter_threshold
    background, classes = official_label_loss(scores, labels, g["labels"])
    inter = inter_loss(scores[:, 1:], g["labels"], seen)
    loss = background + OFFICIAL_CLASS_WEIGHT * classes + settings.inter_weight * inter
    loss.backward()
    assert_close(classes.detach().numpy()[None], g["loss_foreground"].numpy()[None])
    assert_close(inter.detach().numpy()[None], g["loss_inter"].numpy()[None])
    assert_close(loss.detach().numpy()[None], g["loss"].numpy()[None])
    assert_close(scores.grad.numpy(), g["grad_scores"].numpy())
    background, classes = official_label_loss(scores, labels)
    joined = background + OFFICIAL_CLASS_WEIGHT * classes
    assert_close(joined.detach().numpy()[None], g["loss_concatenated"].numpy()[None])


@pytest.mark.parametrize("name", ["local", "transfer", "global"])
def test_alignment(name: str):
    g = {k: torch.from_numpy(v) for k, v in golden("ktse_alignment").items()}
    anchor, erased, tags, margin = g["anchor"], g["erased"], g["labels"], float(g["margin"])
    assert margin == OFFICIAL_MARGIN
    if name == "local":
        found = rise_loss(erased * g["keep_mask"], anchor * g["keep_mask"], tags, margin)
    elif name == "transfer":
        found = rise_loss(g["concatenated_target"], g["concatenated"], tags, margin)
    else:
        found = global_alignment(anchor, erased, tags)
    assert_close(found.numpy()[None], g[f"loss_{name}"].numpy()[None])
