import pytest
import torch

from tagseg.evaluation.faithfulness import area, blurred, deletion, hide, insertion


def test_hiding_what_is_marked():
    images = torch.ones(1, 3, 2, 2)
    assert hide(images, torch.tensor([[[0.7, 0.71], [0.0, 1.0]]]))[0, 0].tolist() == [[1, 0], [1, 0]]


def test_pixels_go_in_the_order_of_the_map():
    image = torch.arange(1.0, 5).view(1, 2, 2).expand(3, 2, 2)
    class_map = torch.tensor([[0.1, 0.9], [0.5, 0.3]])
    sums = deletion(image, class_map, lambda images: images[:, 0].sum(dim=(1, 2)), steps=4)
    assert sums.tolist() == [10, 8, 5, 1, 0]
    inserted = insertion(image, class_map, lambda images: images[:, 0].sum(dim=(1, 2)), steps=4)
    assert inserted[0] == pytest.approx(float(blurred(image)[0].sum()))
    assert inserted[-1] == pytest.approx(10)
    assert area(torch.tensor([1.0, 0.5, 0.0])) == pytest.approx(0.5)


def test_blurring_keeps_a_flat_image_and_the_mean():
    assert torch.allclose(blurred(torch.full((3, 9, 9), 2.0)), torch.full((3, 9, 9), 2.0))
    spot = torch.zeros(3, 31, 31)
    spot[:, 15, 15] = 1
    assert torch.allclose(blurred(spot).sum(dim=(1, 2)), torch.ones(3))
