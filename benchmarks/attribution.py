"""LayerCAM maps of all stages beside the packages that people use, in one run.

    pip install grad-cam torchcam captum
    python benchmarks/attribution.py --models vgg16 resnet50 vit_small_patch16_224 --classes 1 3

Random weights: time does not depend on them. In every round each contender runs once, one after the other, and the
median over the rounds is printed, so that a slow minute of the machine meets all of them. *Floor* is what forward and
backward pass cost in plain torch when nothing is made of the gradients. Memory (`--memory`, Linux) is the peak above
the loaded network, each in a process of its own. `--details` shows instead what the fast convolutions and the order of
the classes contribute, and how far float32 maps are from float64.
"""

import argparse
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
from common import machine
from torch import nn
from torchvision import models

from tagseg.attribution import GradientMaps, LayerCAM, winograd
from tagseg.attribution.calling import Caller
from tagseg.attribution.capture import Tape
from tagseg.attribution.formulas import FORMULAS
from tagseg.attribution.holding import undisturbed
from tagseg.attribution.layers import find_layers
from tagseg.cores import cpu_count
from tagseg.networks.precision import default_device

Work = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vgg16", "resnet50", "vit_small_patch16_224"])
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="measure memory too, which takes a process each")
    parser.add_argument("--details", action="store_true", help="tagseg alone, with and without its parts")
    arguments = parser.parse_args()
    torch.set_num_threads(cpu_count())
    print(f"224 px, batch {arguments.batch}, {machine().replace('bf16-mixed', 'float32')}")
    for name in arguments.models:
        for classes in arguments.classes:
            _table(name, classes, arguments)


def _table(name: str, classes: int, arguments: argparse.Namespace) -> None:
    contenders = (_details if arguments.details else _contenders)(name, classes, arguments.batch)
    times: dict[str, list[float]] = {label: [] for label in contenders}
    for number in range(arguments.rounds + 1):
        for label, work in contenders.items():
            begun = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:  # the first round warms up
                times[label].append(time.perf_counter() - begun)
    medians = {label: 1000 * float(np.median(each)) / arguments.batch for label, each in times.items()}
    print(f"\n### {name}, {classes} class{'es' if classes > 1 else ''} per image\n")
    head = ["ms per image", "of the floor", *(["peak memory, MB"] if arguments.memory else [])]
    print(f"| | {' | '.join(head)} |\n|{'---|' * (len(head) + 1)}")
    for label, value in medians.items():
        cells = [f"{value:.0f}", f"{value / medians['floor: forward + backward']:.2f}"]
        if arguments.memory:
            cells.append(f"{_memory(name, classes, arguments.batch, label):.0f}")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)
    if arguments.details:
        _errors(name, arguments.batch)


def _contenders(name: str, count: int, batch: int) -> dict[str, Work]:
    model, images, classes = _inputs(name, count, batch)
    layers = [layer.module for layer in find_layers(model, "stages", images[:1])]
    five = ("gradcam", "gradcam++", "layercam", "layercam-normal", "normgrad")
    ours, methods = LayerCAM(model, "stages"), GradientMaps(model, "stages", {name: FORMULAS[name] for name in five})
    work: dict[str, Work] = {
        "forward alone": lambda: _forward(model, images),
        "floor: forward + backward": lambda: _floor(model, layers, images, classes),
        "tagseg LayerCAM": lambda: ours.layer_maps(images, classes),
        "tagseg, all five methods": lambda: methods(images, classes),
    }
    return {**work, **_torchcam(model, layers, images, classes), **_grad_cam(model, layers, images, classes),
            **_captum(model, layers, images, classes)}  # fmt: skip


def _inputs(name: str, count: int, batch: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    device = default_device()
    model = timm.create_model(name) if timm.is_model(name) and "vit" in name else models.get_model(name)
    classes = torch.stack([torch.randperm(1000)[:count] for _ in range(batch)])
    return model.eval().to(device), torch.randn(batch, 3, 224, 224, device=device), classes.to(device)


def _details(name: str, count: int, batch: int) -> dict[str, Work]:
    """The floor, and LayerCAM as it is, with direct convolutions, and with all classes in one batched backward pass."""
    model, images, classes = _inputs(name, count, batch)
    layers = find_layers(model, "stages", images[:1])
    ours = LayerCAM(model, "stages")

    def direct() -> None:
        with patch.object(winograd, "_gains", lambda *_, **__: False):
            ours.layer_maps(images, classes)

    def batched() -> None:
        with undisturbed(model), patch.object(winograd, "_gains", lambda *_, **__: False):
            tape = Tape(Caller(model), layers)
            recorded = tape.forward(images)
            picked = recorded.scores.gather(1, classes)
            tape._all_at_once(recorded, picked, [FORMULAS["layercam"]], (224, 224), 1.0)

    return {
        "floor: forward + backward": lambda: _floor(model, [layer.module for layer in layers], images, classes),
        "tagseg LayerCAM": lambda: ours.layer_maps(images, classes),
        "direct convolutions": direct,
        "direct convolutions, classes in one batch": batched,
    }


def _errors(name: str, batch: int) -> None:
    """Largest difference from float64 over the map's maximum, for every layer."""
    model, images, classes = _inputs(name, 1, batch)
    fast = LayerCAM(model, "stages").layer_maps(images, classes)
    with patch.object(winograd, "_gains", lambda *_, **__: False):
        direct = LayerCAM(model, "stages").layer_maps(images, classes)
    exact = LayerCAM(model.double(), "stages").layer_maps(images.double(), classes)
    for label, maps in (("tagseg LayerCAM", fast), ("direct convolutions", direct)):
        off = (float((m - e).abs().max() / e.max()) for m, e in zip(maps, exact, strict=True))
        print(f"off from float64 at worst, {label}: {', '.join(f'{value:.1g}' for value in off)}")


@torch.no_grad()
def _forward(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return model(images)


def _floor(model: nn.Module, layers: list[nn.Module], images: torch.Tensor, classes: torch.Tensor) -> None:
    """Plain torch: one forward pass, and a backward pass to the activations for every class."""
    kept: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output if output.requires_grad else output.detach().requires_grad_()
        kept.append(output)
        return output

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    handles = [layer.register_forward_hook(keep) for layer in layers]
    scores = model(images).gather(1, classes)
    for handle in handles:
        handle.remove()
    for k in range(classes.shape[1]):
        torch.autograd.grad(scores[:, k].sum(), kept, retain_graph=k + 1 < classes.shape[1])
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def _torchcam(
    model: nn.Module, layers: list[nn.Module], images: torch.Tensor, classes: torch.Tensor
) -> dict[str, Work]:
    try:
        from torchcam.methods import LayerCAM as Peer
    except ImportError:
        return {}
    if layers and isinstance(layers[0], nn.LayerNorm):
        return {}  # it maps grids only

    def documented() -> None:
        with Peer(model, list(layers)) as extractor:
            for k in range(classes.shape[1]):
                extractor(classes[:, k].tolist(), model(images))

    def retained() -> None:
        with Peer(model, list(layers)) as extractor:
            scores = model(images)
            for k in range(classes.shape[1]):
                extractor(classes[:, k].tolist(), scores, retain_graph=k + 1 < classes.shape[1])

    if classes.shape[1] == 1:
        return {"torchcam": documented}
    return {"torchcam, as documented": documented, "torchcam, graph retained": retained}


def _grad_cam(
    model: nn.Module, layers: list[nn.Module], images: torch.Tensor, classes: torch.Tensor
) -> dict[str, Work]:
    try:
        from pytorch_grad_cam import LayerCAM as Peer
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        return {}
    reshape = None
    if layers and isinstance(layers[0], nn.LayerNorm):
        reshape = lambda tokens: tokens[:, 1:].transpose(1, 2).unflatten(2, (14, 14))  # noqa: E731

    def work() -> None:
        with Peer(model, list(layers), reshape_transform=reshape) as cam:
            for k in range(classes.shape[1]):
                cam(images, [ClassifierOutputTarget(int(c)) for c in classes[:, k]])

    return {"grad-cam": work}


def _captum(model: nn.Module, layers: list[nn.Module], images: torch.Tensor, classes: torch.Tensor) -> dict[str, Work]:
    """Captum has no LayerCAM; gradient times activation is the same passes."""
    try:
        from captum.attr import LayerGradientXActivation
    except ImportError:
        return {}
    explainers = [LayerGradientXActivation(model, layer) for layer in layers]

    def work() -> None:
        for k in range(classes.shape[1]):
            for explainer in explainers:
                explainer.attribute(images, target=classes[:, k])

    return {"captum (gradient x activation)": work}


def _memory(name: str, classes: int, batch: int, label: str) -> float:
    """Megabytes above what the process holds before the work."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak, (name, classes, batch, label))


def _peak(name: str, classes: int, batch: int, label: str) -> float:
    torch.set_num_threads(cpu_count())
    work = _contenders(name, classes, batch)[label]
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    work()  # kernels are compiled, layers found
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = _peak_rss()
    work()
    return _peak_rss() - before


def _peak_rss() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


if __name__ == "__main__":
    main()
