import numpy as np
import pytest

from tagseg.errors import BadInput
from tagseg.masks.boxes import box_of_map, box_of_mask, graph_cut, official_box


def test_the_largest_component_counts():
    mask = np.zeros((20, 30), bool)
    mask[2:5, 3:7] = mask[10:18, 12:29] = True
    assert box_of_mask(mask) == (12, 10, 29, 18)


def test_components_touch_at_corners():
    mask = np.zeros((4, 4), bool)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = True
    assert box_of_mask(mask) == (0, 0, 3, 3)


def test_the_threshold_is_a_fraction_of_the_maximum():
    class_map = np.zeros((10, 10), np.float32)
    class_map[1:9, 1:9], class_map[4:6, 4:6] = 3, 10
    assert box_of_map(class_map, 0.2) == (1, 1, 9, 9)
    assert box_of_map(class_map, 0.3) == (4, 4, 6, 6)
    with pytest.raises(BadInput, match="fraction of the maximum"):
        box_of_map(class_map, 1.5)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_no_evidence_no_box(value: float):
    assert box_of_map(np.full((5, 5), value)) is None
    assert box_of_mask(np.zeros((5, 5), bool)) is None


def test_graph_cut_joins_scattered_evidence():
    image = np.full((60, 80, 3), 40, np.uint8)
    image[15:45, 20:60] = (220, 60, 60)
    image += np.random.default_rng(0).integers(0, 12, image.shape, dtype=np.uint8)
    evidence = np.zeros((60, 80), np.float32)
    evidence[15:45:4, 20:60:4] = 1  # only single pixels of the object
    mask = graph_cut(image, evidence)
    truth = np.zeros((60, 80), bool)
    truth[15:45, 20:60] = True
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95


def test_graph_cut_of_a_flat_map():
    image = np.zeros((20, 20, 3), np.uint8)
    assert graph_cut(image, np.ones((20, 20))).all()
    assert not graph_cut(image, np.zeros((20, 20))).any()


def test_the_published_script_takes_the_largest_rectangle():
    class_map = np.zeros((40, 60), np.float32)
    class_map[2:38, 3] = class_map[20, 3:30] = 1  # a cross of few pixels, whose rectangle is large
    class_map[5:15, 40:55] = 0.5  # more pixels
    class_map[30:39, 40:59] = 0.1  # below the threshold
    assert official_box(class_map) == (3, 2, 30, 38)
    assert box_of_map(class_map) == (40, 5, 55, 15)
    assert official_box(np.zeros((40, 60))) == (0, 0, 1, 1)


def test_the_published_script_cuts_where_maps_are_scattered():
    image = np.full((60, 80, 3), 40, np.uint8)
    image[15:45, 20:60] = (220, 60, 60)
    image += np.random.default_rng(0).integers(0, 12, image.shape, dtype=np.uint8)
    evidence = np.zeros((60, 80), np.float32)
    evidence[25:35:3, 30:50:3] = 1
    assert official_box(evidence)[2] - official_box(evidence)[0] < 3
    assert official_box(evidence, image=image) == (20, 15, 60, 45)
    assert official_box(np.ones((60, 80)), image=image) == (0, 0, 80, 60)
