"""Networks where people have them: in Lightning's validation, wrapped for several processes, put aside between uses."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tagseg.attribution import GradCAM, LayerCAM


@pytest.fixture
def network() -> Any:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4).eval()


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_validates_in_inference_mode(network: Any, precision: Any, tmp_path: Path):
    wanted, found = LayerCAM(network)(IMAGES, [1, 2]), []

    class Validated(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)

        def validation_step(self, batch: Any, _: int) -> None:
            assert torch.is_inference_mode_enabled()
            found.extend(LayerCAM(model)(batch[0], [1, 2]) for model in (self, self.network))
            assert torch.is_inference_mode_enabled()

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    trainer = lightning.Trainer(
        accelerator="cpu", precision=precision, logger=False, enable_progress_bar=False, default_root_dir=tmp_path,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.validate(Validated(), DataLoader(TensorDataset(IMAGES), batch_size=2), verbose=False)
    assert len(found) == 2
    assert all(torch.equal(maps, wanted) for maps in found)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A group of one process."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_what_is_wrapped_for_several_processes_trains_on(network: Any):
    wrapped = nn.parallel.DistributedDataParallel(network)
    assert torch.equal(LayerCAM(wrapped)(IMAGES, [1, 2]), LayerCAM(network)(IMAGES, [1, 2]))
    wrapped(IMAGES).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("method", [LayerCAM, GradCAM])
def test_weights_that_are_put_aside_between_calls(network: Any, method: Any):
    """As by hooks that bring a module's weights when it is called, and put them away after it."""
    wanted = method(network)(IMAGES, [1, 2])
    kept = {
        module: {k: p.detach() for k, p in module._parameters.items() if p is not None} for module in network.modules()
    }

    def away(module: nn.Module, *_: Any) -> None:
        for name, value in kept[module].items():
            module._parameters[name] = nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False)

    def here(module: nn.Module, *_: Any) -> None:
        for name, value in kept[module].items():
            module._parameters[name] = nn.Parameter(value.clone(), requires_grad=False)

    for module in network.modules():
        module.register_forward_pre_hook(here)
        module.register_forward_hook(away)
        away(module)
    torch.testing.assert_close(method(network)(IMAGES, [1, 2]), wanted)
    assert all(p.device.type == "meta" for p in network.parameters())


def test_one_box_of_a_detector():
    torch.manual_seed(0)
    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    )

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detector = detector.eval()

        def forward(self, images: torch.Tensor) -> Any:
            return self.detector.head(list(self.detector.backbone(images).values()))

    heads, anchor = Heads().eval(), 100
    score = lambda found: found["cls_logits"].softmax(dim=-1)[:, anchor]  # noqa: E731
    images = torch.randn(1, 3, 320, 320)
    attribution = LayerCAM(heads, ["detector.backbone.features.0"], score=score, scaling="none")
    (maps,) = attribution.layer_maps(images, [1])
    assert maps.shape[:2] == (1, 1)
    assert maps.max() > 0
    assert (maps > 0).float().mean() < 0.9  # of a box, not of everything
