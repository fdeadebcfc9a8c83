import torch

from tagseg.masks.two_thresholds import refined_labels


def test_between_the_thresholds_nothing_is_known():
    images = torch.full((1, 3, 32, 32), 128.0)
    images[:, :, :, 16:] = 30
    maps = torch.zeros(1, 3, 32, 32)
    tags = torch.tensor([[0, 1, 0]])
    for value, wanted in ((0.9, 2), (0.5, 255), (0.1, 0)):
        maps[0, 1] = value
        labels = refined_labels(images, maps, tags, high=0.7, low=0.25)
        assert (labels == wanted).all()


def test_no_tags_are_background_and_padding_is_ignored():
    images, maps = torch.rand(1, 3, 31, 17), torch.rand(1, 2, 31, 17)
    boxes = torch.tensor([[0, 20, 3, 17]])
    labels = refined_labels(images, maps, torch.zeros(1, 2), high=0.7, low=0.25, boxes=boxes)
    assert (labels[0, :20, 3:] == 0).all()
    assert (labels[0, 20:] == 255).all()
    assert (labels[0, :, :3] == 255).all()
