"""What patch affinity costs a training step of SS-EPA: time, and memory above the network's own.

    python benchmarks/affinity_memory.py --backbone vit_base_patch16_224 --side 448 --batches 1 2

"none" is ToCo. "held" is the plain mean as it is usually written: every head's weights of every block are kept, stacked
and averaged. Every number comes from a process of its own. On a GPU memory is what torch has held at most.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from common import machine

from tagseg.methods.ss_epa import SSEPA, SSEPASettings
from tagseg.networks.precision import default_device, inference_autocast
from tagseg.networks.vit import Tokens

KINDS = ("none", "mean", "enhanced", "held")
CLASSES = tuple(f"class {n}" for n in range(20))


class Held(SSEPA):
    """All weights at once."""

    def refined(self, maps: torch.Tensor, tokens: Tokens) -> torch.Tensor:
        found = tokens.attention
        assert found is not None
        weights = [(q @ k.transpose(2, 3)).softmax(dim=-1) for q, k in zip(found.queries, found.keys, strict=True)]
        mean = torch.stack(weights).mean(dim=(0, 2))[:, found.prefix :, found.prefix :]
        flat = maps.flatten(2).to(mean.dtype)
        return (flat @ mean.transpose(1, 2)).unflatten(2, found.grid)


def peak() -> float:
    """MB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(kind: str, backbone: str, side: int, batch_size: int) -> None:
    torch.manual_seed(0)
    device = default_device()
    settings = SSEPASettings(side=side, classes_first=0.0, affinity="mean" if kind == "held" else kind)
    network: Any = (Held if kind == "held" else SSEPA)(backbone, "random", CLASSES, settings, 100)
    network.log = lambda *_: None
    network.train().to(device)
    shape = (batch_size, 3, network.side, network.side)
    batch = {name: torch.randn(shape, device=device) for name in ("image", "again", "other")}
    batch["tags"] = torch.eye(len(CLASSES), device=device)[torch.arange(batch_size) % 3]
    batch["inside"] = torch.tensor([[0, network.side, 0, network.side]] * batch_size, device=device)
    for parameter in network.parameters():  # as an optimiser's state would be: there before the step
        parameter.grad = torch.zeros_like(parameter)
    before = peak()
    begun = time.perf_counter()
    with inference_autocast(device):
        loss = network.training_step(batch, 0)
    loss.backward()
    print(f"{peak() - before:.0f} {time.perf_counter() - begun:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_224")
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one[0], arguments.backbone, arguments.side, int(arguments.one[1]))
        return
    print(f"{arguments.backbone}, {arguments.side} pixels, {machine()}\n")
    print("| affinity | batch | MB | of none | seconds | of none |")
    for batch in arguments.batches:
        base: list[float] = []
        for kind in KINDS:
            command = [sys.executable, __file__, "--one", kind, str(batch)]
            command += ["--backbone", arguments.backbone, "--side", str(arguments.side)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            memory, seconds = (float(word) for word in output.split()[-2:])
            base = base or [memory, seconds]
            print(f"| {kind} | {batch} | {memory:.0f} | {memory / base[0]:.2f} | {seconds} | {seconds / base[1]:.2f} |")


if __name__ == "__main__":
    main()
