import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tagseg.attribution import GradCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM
from tagseg.evaluation.localisation import BoxAccuracy
from tests.parity.golden import assert_close, golden


class Network(nn.Module):
    """The network of the golden file, of whatever widths its weights have."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()

        def stage(name: str, pool: bool) -> nn.Sequential:
            outputs, inputs = weights[f"{name}.0.weight"].shape[:2]
            layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
            return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))

        self.stage1, self.stage2, self.stage3 = stage("stage1", True), stage("stage2", True), stage("stage3", False)
        self.pool = nn.AdaptiveAvgPool2d(2)
        (hidden, inputs), classes = weights["fc.0.weight"].shape, weights["fc.2.weight"].shape[0]
        self.fc = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes))
        self.load_state_dict(weights)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.stage3(self.stage2(self.stage1(images)))).flatten(1))


@pytest.fixture(scope="module")
def reference() -> tuple[Network, dict[str, np.ndarray]]:
    arrays = golden("attribution_small_cnn")
    prefix = "weight:"
    weights = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
    return Network(weights), arrays


@pytest.mark.parametrize("layers", ["stages", ["stage1.1", "stage2.1", "stage3.1"]])
@pytest.mark.parametrize(
    ("name", "attribution"),
    [
        ("gradcam", GradCAM),
        ("gradcampp", lambda *a: GradCAMPlusPlus(*a, compat="official")),
        ("layercam", LayerCAM),
    ],
)
def test_maps_are_those_of_the_published_package(reference, name, attribution, layers):
    model, arrays = reference
    classes = torch.from_numpy(arrays["classes"]).long()[:, None]
    maps = attribution(model, layers).layer_maps(torch.from_numpy(arrays["images"]), classes)
    for number, found in enumerate(maps, start=1):
        assert_close(found[:, 0].numpy(), arrays[f"{name}:stage{number}"])


def test_score_cam_is_that_of_the_published_package(reference):
    model, arrays = reference
    images = torch.from_numpy(arrays["images"])
    classes = torch.from_numpy(arrays["classes"]).long()[:, None]
    (maps,) = ScoreCAM(model, "last", compat="official").layer_maps(images, classes)
    maps = F.interpolate(maps, size=images.shape[2:], mode="bilinear")
    maps = maps - maps.amin(dim=(2, 3), keepdim=True)
    maps = maps / maps.amax(dim=(2, 3), keepdim=True)
    assert_close(maps[:, 0].numpy(), arrays["scorecam_scaled:stage3"], tolerance=1e-3)


def test_box_accuracy_is_that_of_the_published_protocol():
    arrays = golden("wsol_boxes")
    accuracy = BoxAccuracy(arrays["thresholds"])
    for number, class_map in enumerate(arrays["maps"]):
        accuracy.add(class_map, arrays["boxes"][arrays["boxes"][:, 0] == number][:, 1:])
    for row, iou in enumerate((30, 50, 70)):
        for name, counts in (("largest", accuracy.largest), ("all_contours", accuracy.every)):
            assert_close(counts[row] / accuracy.count, arrays[f"box_accuracy_{name}_iou{iou}"])
