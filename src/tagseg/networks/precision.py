"""Which number format this machine computes networks in: bf16 where it is native, else fp16 on GPUs, else fp32."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch


def default_device() -> torch.device:
    """Returns the accelerator in use, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def trainer_precision(device: torch.device) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    """Returns Lightning's name of the format to train in."""
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "bf16-mixed" if device.type == "cpu" and _cpu_has_bf16() else "32-true"


def inference_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Returns an autocast to the format that training uses, for forward passes outside the trainer."""
    precision = trainer_precision(device)
    kind = torch.float16 if precision == "16-mixed" else torch.bfloat16
    return torch.autocast(device.type, dtype=kind, enabled=precision != "32-true")


def _cpu_has_bf16() -> bool:
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # there is no public question to ask
    return bool(probe and probe())
