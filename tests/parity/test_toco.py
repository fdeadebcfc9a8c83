import torch
from torch.nn import functional as F

from tagseg.masks.rescaling import between_extremes
from tagseg.methods.afa import affinity_loss
from tagseg.methods.auxiliary_stage import affinity_labels, labels_of, patch_contrast_loss
from tagseg.methods.single_stage import balanced_cross_entropy, strongest_of_flips
from tagseg.methods.toco import class_contrast_loss, regions
from tests.parity.golden import assert_close, golden


def tensors(name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in golden(name).items()}


def test_labels():
    g = tensors("toco_labels")
    maps, tags, high, low = g["class_maps"], g["labels"], float(g["high"]), float(g["low"])
    inside = labels_of(maps, tags, high=high, low=low, boxes=g["boxes"])
    background = float(g["background"])
    assert torch.equal(inside, g["label_in_box"].long())
    assert torch.equal(labels_of(maps, tags, high=background, low=background), g["label_plain"].long())
    assert torch.equal(regions(maps, tags, high=high, low=low), g["roi"].long())
    assert torch.equal(affinity_labels(inside), g["affinity"].long())


def test_patch_contrast():
    g = tensors("toco_ptc_loss")
    features = g["features"].requires_grad_()
    loss = patch_contrast_loss(features, g["mask"].long())
    loss.backward()
    assert_close(loss.detach().numpy()[None], g["loss"].numpy()[None])
    assert_close(features.grad.numpy(), g["grad_features"].numpy())


def test_class_contrast():
    g = tensors("toco_ctc_loss")
    student = g["student"].requires_grad_()
    loss = class_contrast_loss(student, g["teacher"], g["flags"], float(g["temperature"]), extra=True)
    loss.backward()
    assert_close(loss.detach().numpy()[None], g["loss"].numpy()[None])
    assert_close(student.grad.numpy(), g["grad_student"].numpy())


def test_segmentation_loss():
    g = tensors("toco_segmentation_loss")
    scores = g["logits"].requires_grad_()
    loss = balanced_cross_entropy(scores, g["labels"])
    loss.backward()
    assert_close(loss.detach().numpy()[None], g["loss"].numpy()[None])
    assert_close(scores.grad.numpy(), g["grad_logits"].numpy())


def test_multi_scale_maps():
    g = tensors("toco_multiscale_fusion")
    images = g["images"]
    size = images.shape[-2:]
    for name, padding in (("main", 1), ("aux", 2)):
        total = torch.zeros(())
        for scale in g["scales"].tolist():
            at = tuple(int(scale * n) for n in size)
            shown = F.interpolate(images, size=at, mode="bilinear", align_corners=False)
            maps = [
                F.conv2d(view, g[f"{name}_weight"], g[f"{name}_bias"], stride=4, padding=padding)
                for view in (shown, shown.flip(-1))
            ]
            total = total + strongest_of_flips(maps[0], maps[1], size)
        assert_close(between_extremes(total).numpy(), g[name].numpy())


def test_affinity_from_attention():
    g = tensors("afa_affinity_loss")
    affinity = g["affinity"].requires_grad_()
    loss = affinity_loss(affinity, g["target"].long())
    loss.backward()
    assert_close(loss.detach().numpy()[None], g["loss"].numpy()[None])
    assert_close(affinity.grad.numpy(), g["grad_affinity"].numpy())
