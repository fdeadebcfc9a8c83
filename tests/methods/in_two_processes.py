"""Run by two processes at once: teaches every method, and writes what each process has learnt.

python -m torch.distributed.run --nproc_per_node 2 tests/methods/in_two_processes.py DATA OUT
"""

import os
import sys
from pathlib import Path

import torch

from tagseg.methods.table import method_names
from tagseg.pipeline import training
from tests.methods.any_method import exact, some, taught

if __name__ == "__main__":
    torch.set_num_threads(1)
    (samples, classes), out = some(Path(sys.argv[1])), Path(sys.argv[2])
    spawned = training._strategy
    # the processes are there already; what is asked of them is the same
    training._strategy = lambda processes, rests: spawned(processes, rests).replace("_spawn", "")
    exact()
    for name in method_names():
        network = taught(name, samples, classes, out / name, processes=2)
        values = {key: value.detach().cpu() for key, value in network.named_parameters()}
        torch.save(values, out / name / f"process-{os.environ['RANK']}.pt")
