"""The machine that a number was measured on, in words."""

import platform

import torch

from tagseg.data.loading import cpu_count
from tagseg.networks.precision import default_device, trainer_precision


def machine() -> str:
    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return f"{name}, {cpu_count()} cores, {trainer_precision(device)}, torch {torch.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
