"""`doctor`: what this machine has, what is missing, and whether the networks of a recipe can be loaded."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagseg.cores import cpu_count
from tagseg.errors import BadInput, brief
from tagseg.files import free_bytes

PACKAGES = {  # and the module that each of them is imported as
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "lightning": "lightning",
    "numpy": "numpy",
    "opencv-python-headless": "cv2",
    "numba": "numba",
    "pillow": "PIL",
    "scipy": "scipy",
    "scikit-image": "skimage",
    "safetensors": "safetensors",
    "pydantic": "pydantic",
}
EXTRAS = {
    "gradio": ("app", "the explorer and the page on which masks are mended"),
    "pycocotools": ("coco", "COCO's annotations"),
    "onnxruntime": ("onnx", "networks as ONNX, segments of SAM"),
    "captum": ("studies", "some studies of classifiers"),
}
HUB, PATIENCE = "https://huggingface.co", 5.0  # where timm's weights come from, seconds


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    what: its name.
    text: what was found, or how to mend it.
    good: whether it is as it should be.
    needed: whether nothing goes without it.
    """

    what: str
    text: str
    good: bool = True
    needed: bool = True


def doctor(recipe: str = "photos/cam", settings: dict[str, Any] | None = None) -> list[Finding]:
    """Looks at versions, cores, memory, disk, GPUs and packages, and tries the networks of a recipe.

    Args:
        recipe: see `tagseg.fit`.
        settings: dotted keys to values.

    Raises:
        BadInput: there is no such recipe or setting.
    """
    found = [*_versions(), *_machine(), *_extras()]
    if not all(finding.good for finding in found if finding.needed):
        return found  # what is missing is needed for the rest
    from tagseg.pipeline.networks import networks_of  # torch is imported only now
    from tagseg.pipeline.settings import resolve

    networks = networks_of(resolve(recipe, settings))
    return [*found, *_gpus(), *(_network(name, weights) for name, weights in networks)]


def _versions() -> list[Finding]:
    found = [Finding("Python", f"{platform.python_version()} on {platform.platform()}")]
    for name, module in {"tagseg": "tagseg", **PACKAGES}.items():
        there = importlib.util.find_spec(module) is not None
        try:
            text = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # as of opencv-python, which is the same module
            text = "there, by another name" if there else "missing; pip install tagseg"
        found.append(Finding(name, text, there))
    return found


def _machine() -> list[Finding]:
    memory = _memory()
    where = Path(tempfile.gettempdir())
    return [
        Finding("cores", str(cpu_count())),
        Finding(
            "memory",
            f"{memory / 1e9:.1f} GB" if memory else "this system does not tell",
            memory is None or memory > 3e9,
        ),
        Finding("disk here", f"{free_bytes(Path.cwd()) / 1e9:.1f} GB free", free_bytes(Path.cwd()) > 1e9),
        Finding("disk for what passes", f"{free_bytes(where) / 1e9:.1f} GB free in {where}", free_bytes(where) > 2e8),
    ]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> list[Finding]:
    import torch

    from tagseg.networks.precision import default_device, trainer_precision

    device = default_device()
    found = [Finding("device", f"{device.type}, {trainer_precision(device)}")]
    if device.type != "cuda":
        text = "none that torch can use; the recipe photos/cam needs none"
        return [*found, Finding("GPU", text, needed=False)]
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        found.append(Finding(f"GPU {number}", f"{facts.name}, {facts.total_memory / 1e9:.0f} GB"))
    return found


def _extras() -> list[Finding]:
    found = []
    for package, (extra, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        text = f"for {purpose}" if there else f"missing, for {purpose}: pip install 'tagseg[{extra}]'"
        found.append(Finding(package, text, there, needed=False))
    return found


def _network(name: str, weights: str) -> Finding:
    from tagseg.networks.backbone import Backbone, stand_in

    try:
        Backbone(name, stand_in(name, weights))
    except BadInput as error:
        return Finding(name, str(error), good=False)
    if weights != "pretrained":
        return Finding(name, "random weights" if weights == "random" else f"weights of {weights}")
    return _pretrained(name)


def _pretrained(name: str) -> Finding:
    """Whether timm's weights are here already, or can be had."""
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    place = getattr(config, "hf_hub_id", None)
    for file in ("model.safetensors", "pytorch_model.bin"):
        if place and isinstance(try_to_load_from_cache(place.split("@")[0], file), str):
            return Finding(name, "timm's weights are here")
    try:
        with urllib.request.urlopen(HUB, timeout=PATIENCE):
            return Finding(name, "timm's weights will be downloaded when they are needed")
    except OSError as error:
        text = (
            f"timm's weights are not here, and {HUB} is not reached ({brief(error)}); give a file with --weights, or "
        )
        return Finding(name, f"{text}--encoder-weights.", good=False)
