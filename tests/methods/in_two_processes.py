"""Run by two processes at once: teaches methods and refinements, and writes what each process has learnt.

python -m torch.distributed.run --nproc_per_node 2 tests/methods/in_two_processes.py DATA OUT NAME ...
"""

import os
import sys
from pathlib import Path

import torch

from tagseg.pipeline import training
from tagseg.pipeline.training import Sharing
from tests.methods.any_method import SEGMENTERS, SHARED, affinity_taught, exact, segmenter_taught, some, taught

if __name__ == "__main__":
    torch.set_num_threads(1)
    (samples, classes), out = some(Path(sys.argv[1])), Path(sys.argv[2])
    spawned = training._strategy
    # the processes are there already, and each of them calls the training; what is asked of them is the same
    training.team = lambda: None
    training._strategy = lambda processes, rests, joined: spawned(processes, rests, joined).replace("_spawn", "")
    exact()
    networks: dict[str, torch.nn.Module] = {}
    for name in sys.argv[3:]:
        if name in ("psa", "irn"):
            networks[name] = affinity_taught(name, Path(sys.argv[1]), out / name, Sharing(2))
        elif name in SEGMENTERS:
            networks[name] = segmenter_taught(name, Path(sys.argv[1]), out / name, Sharing(2))
        elif name == "late":  # past steps in which a part of it learns nothing
            networks[name] = taught(
                "toco", samples, classes, out / name, Sharing(2), classes_first=0.5, batch_size=SHARED
            )
        else:
            networks[name] = taught(name, samples, classes, out / name, Sharing(2), batch_size=SHARED)
    for name, network in networks.items():
        values = {key: value.detach().cpu() for key, value in network.named_parameters()}
        torch.save(values, out / name / f"process-{os.environ['RANK']}.pt")
