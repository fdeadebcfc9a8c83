"""Processes that torchrun or srun has started learn what those learn that a run starts itself, and end together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tagseg.files import file_digest
from tagseg.pipeline import cluster
from tests.conftest import TINY

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]


def command(data: Path, out: Path, **more: Any) -> list[str]:
    settings = {**TINY, "train.epochs": 3, **more}
    return [
        *("tagseg.cli", "fit", str(data), "--out", str(out), "--recipe", "cam"),
        *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
    ]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def left(run: Path) -> dict[str, str]:
    """What has been learnt, and what has been made of every photograph, whoever has made it."""
    kinds = ("*/*.safetensors", "masks/*.png", "report/predictions/*.png", "report/maps/*.safetensors")
    return {p.relative_to(run).as_posix(): file_digest(p) for kind in kinds for p in sorted(run.glob(kind))}


@pytest.fixture(scope="module")
def launched(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], str]:
    """What two processes have learnt that torchrun has started twice, for one was killed; and what they said."""
    out = tmp_path_factory.mktemp("launched") / "run"
    launched = [*TORCHRUN, *command(tiny_set, out)]
    agent = subprocess.Popen(launched, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoint, waited = out / "train" / "last.ckpt", time.monotonic()
    while not checkpoint.exists() and not (out / "train" / "stage.json").exists():
        assert time.monotonic() - waited < 120
        time.sleep(0.05)
    while not checkpoint.exists() and agent.poll() is None:
        time.sleep(0.01)
    children = subprocess.run(["pgrep", "-P", str(agent.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    killed = time.monotonic()
    assert agent.wait(timeout=60) != 0
    assert time.monotonic() - killed < 45
    for child in children:
        assert not Path("/proc", child).exists()
    done = subprocess.run(launched, env=environment(), capture_output=True, text=True, check=True)
    assert not list(out.rglob("*.partial"))
    return left(out), done.stdout


def test_one_that_is_killed_ends_all_and_the_same_command_goes_on(launched: tuple[dict[str, str], str]):
    files, said = launched
    assert {name.split("/")[0] for name in files} == {"train", "mine", "segment", "masks", "report"}
    assert said.count("segmentation, evaluation") == 1  # the other process says nothing


def test_srun(tiny_set: Path, tmp_path: Path, launched: tuple[dict[str, str], str]):
    """Learns what those learn that torchrun has started, one of which was killed."""
    out, step = tmp_path / "run", []
    for rank in range(2):
        slurm = {
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank),
            "SLURM_NODEID": "0",
            "SLURM_JOB_ID": str(20_000 + os.getpid() % 10_000),
            "SLURM_STEP_ID": "0",
            "SLURM_NODELIST": "localhost",
            "SLURM_STEP_TASKS_PER_NODE": "2",
            "SLURM_JOB_NAME": "fit",
        }
        step.append(subprocess.Popen([sys.executable, "-m", *command(tiny_set, out)], env=environment(**slurm)))
    assert [process.wait(timeout=240) for process in step] == [0, 0]
    assert left(out) == launched[0]


@pytest.mark.long
def test_those_that_a_run_starts_itself(tiny_set: Path, tmp_path: Path, launched: tuple[dict[str, str], str]):
    """Learn what those learn that torchrun has started."""
    out = tmp_path / "run"
    subprocess.run([sys.executable, "-m", *command(tiny_set, out, processes=2)], check=True, env=environment())
    assert left(out) == launched[0]


@pytest.mark.long
def test_a_machine_that_dies_ends_the_other_and_the_same_command_goes_on(
    tiny_set: Path, tmp_path: Path, launched: tuple[dict[str, str], str]
):
    """Two agents of torchrun with a process each, as on two machines (docs/clusters.md)."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def machines() -> list[subprocess.Popen[str]]:
        agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
        place = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
        return [
            subprocess.Popen(
                [*agent, *place, "--node-rank", str(number), "-m", *command(tiny_set, out)],
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
            for number in range(2)
        ]

    first, second = machines()
    checkpoint, waited = out / "train" / "last.ckpt", time.monotonic()
    while not checkpoint.exists() and first.poll() is None:
        assert time.monotonic() - waited < 120
        time.sleep(0.01)
    for process in subprocess.run(["pgrep", "-s", str(second.pid)], capture_output=True, text=True).stdout.split():
        os.kill(int(process), signal.SIGKILL)
    killed = time.monotonic()
    assert first.wait(timeout=90) != 0
    assert time.monotonic() - killed < 45
    assert [agent.wait(timeout=240) for agent in machines()] == [0, 0]
    assert left(out) == launched[0]


def test_who_is_alone(monkeypatch: pytest.MonkeyPatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    cluster.team.cache_clear()
    assert cluster.team() is None
    monkeypatch.setenv("SLURM_NTASKS", "4")  # within sbatch, but not started by srun
    monkeypatch.setenv("SLURM_JOB_NAME", "fit")
    assert cluster._of_slurm() is None
    for name, value in {"STEP_ID": "0", "PROCID": "5", "LOCALID": "1", "STEP_TASKS_PER_NODE": "4(x2)"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_NODELIST", "node[12-13]")
    assert cluster._of_slurm() == (5, 8, 1, 4)
    assert os.environ["MASTER_ADDR"] == "node12"
    for value, rank, node, found in (("3,4", "6", "1", 4), ("4(x2),3", "9", "2", 3), ("3,4", "2", "0", 3)):
        monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", value)
        monkeypatch.setenv("SLURM_PROCID", rank)
        monkeypatch.setenv("SLURM_NODEID", node)
        assert cluster._of_slurm() == (int(rank), 8, 1, found)
    cluster.team.cache_clear()


def test_how_many_are_on_a_machine():
    second = cluster.Team(rank=5, size=8, local_rank=1, local_size=4, store=None)  # type: ignore[arg-type]
    assert [second.local(n) for n in (2, 4, 5, 6, 8)] == [0, 0, 1, 2, 4]
