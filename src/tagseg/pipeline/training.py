"""Running a Lightning module so that it can be killed anywhere and ends as if it had not been."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import LayerSync, TorchCheckpointIO
from lightning.pytorch.plugins.environments import LightningEnvironment
from safetensors.torch import save_file
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.utils.data import Dataset

from tagseg.cores import cores_each
from tagseg.data.loading import TrainingLoader
from tagseg.errors import BadInput
from tagseg.files import write_aside
from tagseg.networks.precision import default_device, trainer_precision
from tagseg.networks.ranks import have_portion, seed_epoch
from tagseg.pipeline.cluster import Joined, team
from tagseg.pipeline.records import EpochRecord
from tagseg.pipeline.run_folder import CHECKPOINT
from tagseg.pipeline.runaway import EndRunaway, weights_to_go_back_to
from tagseg.pipeline.settings import LogSettings
from tagseg.pipeline.step_log import Means, StepLog, find_logger
from tagseg.progress import Reporter

_SEED_STRIDE = 1_000_003  # epochs of different seeds do not share random numbers


@dataclass(frozen=True)
class Schedule:
    """How long and from which seed."""

    epochs: int
    batch_size: int
    seed: int
    batch_size_at: Callable[[int], int] | None = None  # of an epoch, where it is not always the same
    together: int = 1  # photographs that are counted as one, for no two processes can share them

    def batch(self, epoch: int) -> int:
        """Photographs a step in an epoch, counted from 0."""
        return self.batch_size if self.batch_size_at is None else self.batch_size_at(epoch)

    def batches(self) -> set[int]:
        """Returns all batch sizes that there are in the training."""
        return {self.batch(epoch) for epoch in range(self.epochs)}

    def steps(self, photographs: int) -> int:
        """Returns how many steps the training of so many photographs takes."""
        return sum(-(-photographs // self.batch(epoch)) for epoch in range(self.epochs))


@dataclass(frozen=True)
class Sharing:
    """How a batch is worked on: by how many processes together, and in how many parts one after the other.

    processes: at most.
    accumulate: parts that a process's share of a batch is split into, so that a large batch fits into little memory;
        their gradients are added before a step.
    """

    processes: int = 1
    accumulate: int = 1

    def of(self, *batches: int) -> tuple[int, int]:
        """Returns the processes and the parts for batches of these sizes: no part is without a photograph."""
        processes = min(self.processes, *batches)
        return processes, min(self.accumulate, *(batch // processes for batch in batches))


@dataclass(frozen=True)
class Place:
    """Where a training lies, who shares its work, and who is told of it.

    folder: of its checkpoint and its log.
    name: of the training, for people.
    reporter: shows how far it is.
    sharing: how its batches are worked on.
    log: of its steps.
    """

    folder: Path
    name: str
    reporter: Reporter
    sharing: Sharing = Sharing()
    log: LogSettings = field(default_factory=LogSettings)


def train(
    module: lightning.LightningModule,
    views: Dataset[Any],
    schedule: Schedule,
    place: Place,
    *,
    rests: bool = False,
    must_fall: str | None = None,
    watching: Sequence[Callback] = (),
) -> list[EpochRecord]:
    """Trains `module` on `views`, from the last finished epoch in the place's folder if there is one.

    Everything random in an epoch depends on seed and epoch only, and the epoch's end is on the disk before the next
    begins, so the weights do not depend on whether and where the process was killed. Several processes share every
    batch (one GPU each, where there are GPUs), so that they learn what one would, but for rounding and for what a
    network draws inside (dropout); where they cannot share it evenly, some have one more photograph. With `rests` some
    parameters may learn nothing in some steps. `must_fall` is a part of the loss; where an epoch has more of it than
    the first one that has any, the training ends (see `EndRunaway`). `watching` is told of the training, and changes
    nothing in it.

    Returns:
        a record of every epoch.

    Raises:
        BadInput: there are fewer GPUs than processes, or a loss is no finite number.
    """
    _quieten()
    name, asked = place.name, place.sharing.processes
    check_processes(asked)
    processes, parts = place.sharing.of(*schedule.batches())
    if processes < asked:
        batches = " or ".join(str(schedule.together * batch) for batch in sorted(schedule.batches()))
        whole = f", {schedule.together} of which stay together" if schedule.together > 1 else ""
        place.reporter.say(
            f"{name}: {processes} of {asked} processes work, for there are no more to share in a batch of {batches} "
            f"photographs{whole}"
        )
    checkpoint = place.folder / CHECKPOINT
    if checkpoint.exists() and not _is_whole(checkpoint):
        place.reporter.say(f"{name}: begins anew, because its checkpoint {CHECKPOINT} is damaged")
        checkpoint.unlink(missing_ok=True)
    arguments = (module, views, schedule, place, processes, parts, rests, must_fall, tuple(watching))
    others = team() if processes > 1 else None
    epochs = _train(*arguments) if others is None else others.do(_train, arguments, processes, place.folder)
    callbacks = _left_by_callbacks(checkpoint) if processes > 1 or must_fall is not None else {}
    if processes > 1:  # the log was kept by another process
        epochs.load_state_dict(callbacks[epochs.state_key])
    before = weights_to_go_back_to(callbacks)
    if before is not None:
        kept, weights = before
        module.load_state_dict(weights)
        epochs.epochs[kept - 1] = epochs.epochs[kept - 1].model_copy(update={"kept": True})
        place.reporter.say(
            f"{name}: ended after epoch {len(epochs.epochs)}, for the maps agree less with the labels that are made of "
            f"them than when these set in; the network of epoch {kept} is kept"
        )
    return epochs.epochs


def _train(
    module: lightning.LightningModule,
    views: Dataset[Any],
    schedule: Schedule,
    place: Place,
    processes: int,
    parts: int,
    rests: bool,
    must_fall: str | None,
    watching: tuple[Callback, ...],
) -> EpochLog:
    """What one process does, or all those do that somebody else has started; without those it starts them itself."""
    _quieten()
    folder, name, log = place.folder, place.name, place.log
    device, others = default_device(), team() if processes > 1 else None
    steps = schedule.steps(len(views))  # type: ignore[arg-type]
    epochs = EpochLog(name, schedule, steps, place.reporter)
    here = processes if others is None else others.local(processes)
    loaders = Loaders(views, schedule, processes, parts, min(8, cores_each(here)))
    checkpoint = folder / CHECKPOINT
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else device.type,
        devices=here if others is None else others.devices(processes),
        strategy=_strategy(processes, rests, others is not None),
        precision=trainer_precision(device),
        max_epochs=schedule.epochs,
        accumulate_grad_batches=parts,
        reload_dataloaders_every_n_epochs=int(len(schedule.batches()) > 1),
        logger=find_logger(log, folder, name),
        log_every_n_steps=1 << 30,  # what modules log themselves; `StepLog` says more
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        # whatever cluster this runs in, the processes are those of the team, or those that are started here
        plugins=[
            WholeCheckpoints(),
            LightningEnvironment() if others is None else Joined(others, processes),
            *([SharedNorms()] if processes > 1 and device.type == "cuda" else []),
        ],
        callbacks=[
            *watching,  # before epochs are timed and seeded
            epochs,
            Weights(loaders),
            StepLog(folder, log.every, steps),
            *([] if must_fall is None else [EndRunaway(epochs, must_fall)]),
            ModelCheckpoint(
                dirpath=folder,
                filename=Path(CHECKPOINT).stem,
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
        ],
    )
    module.to(memory_format=torch.channels_last)
    with _interruptible():
        trainer.fit(module, loaders, ckpt_path=checkpoint if checkpoint.exists() else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return epochs


def _left_by_callbacks(checkpoint: Path) -> dict[str, Any]:
    """What the callbacks left in a checkpoint, of which nothing else is read."""
    return torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["callbacks"]


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint can be read to its end, without executing anything; the archive keeps a checksum of
    everything in it."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            if archive.testzip() is not None:
                return False
        return "state_dict" in torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever a damaged archive makes its readers stumble over
        return False


def _strategy(processes: int, rests: bool, joined: bool) -> str:
    if processes == 1:
        return "auto"
    return f"ddp{'' if joined else '_spawn'}{'_find_unused_parameters_true' if rests else ''}"


def check_processes(processes: int) -> None:
    """Refuses more processes than there are GPUs, where there are GPUs.

    Raises:
        BadInput: there are fewer.
    """
    others = team()
    here = processes if others is None else others.devices(processes)
    if others is not None and processes > others.size:
        raise BadInput(f"processes {processes}: {others.size} were started together; give at most as many.")
    if default_device().type == "cuda" and here > torch.cuda.device_count():
        raise BadInput(
            f"processes {processes}: this machine has {torch.cuda.device_count()} GPUs; give at most as many."
        )


class Loaders(lightning.LightningDataModule):
    """Gives every process its share of the photographs.

    `batches` are those of the present epoch.
    """

    batches: TrainingLoader

    def __init__(self, views: Dataset[Any], schedule: Schedule, processes: int, parts: int, threads: int) -> None:
        super().__init__()
        self.views, self.schedule, self.processes = views, schedule, processes
        self.parts, self.threads = parts, threads

    def train_dataloader(self) -> TrainingLoader:
        """Returns the batches of this process."""
        assert self.trainer is not None
        self.batches = TrainingLoader(
            self.views,
            self.schedule.batch(self.trainer.current_epoch),
            self.schedule.seed,
            parts=self.parts,
            threads=self.threads,
            rank=self.trainer.global_rank,
            world_size=self.processes,
        )
        return self.batches


class Weights(Callback):
    """Lets the loss of every step, and its terms, weigh as much as this process has of the photographs.

    Means over processes and parts, of gradients and of what is logged, are then those of all photographs. Where all
    have as many, nothing is touched.
    """

    def __init__(self, loaders: Loaders) -> None:
        self.loaders = loaders

    def on_train_start(self, trainer: lightning.Trainer, module: Any) -> None:  # noqa: ARG002
        """Puts itself before the step of the module."""
        module.training_step = partial(_weighed, module, self.loaders)

    def on_train_end(self, trainer: lightning.Trainer, module: Any) -> None:  # noqa: ARG002
        """Gives the module its step back."""
        vars(module).pop("training_step", None)

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Gives the module its step back."""
        vars(module).pop("training_step", None)


def _weighed(module: Any, loaders: Loaders, batch: Any, batch_idx: int) -> torch.Tensor:
    """A step of the module; Lightning knows the number of the batch by its name."""
    step = type(module).training_step
    weight, portion = loaders.batches.weights(batch_idx)
    if weight == portion == 1:
        return step(module, batch, batch_idx)
    have_portion(portion)
    try:
        loss = weight * step(module, batch, batch_idx)
    finally:
        have_portion(1.0)
    if hasattr(module, "terms"):
        module.terms = {name: weight * value for name, value in module.terms.items()}
    return loss


def save_network(module: torch.nn.Module, path: Path) -> None:
    """Writes the weights alone, as `.safetensors`, whole or not at all."""
    with write_aside(path) as aside:
        save_file({k: v.contiguous().cpu() for k, v in module.state_dict().items()}, aside)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lightning answers Ctrl+C by ending the process and ignoring further ones; that is for the caller to decide."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    except BaseException:
        for child in multiprocessing.active_children():  # else they would be waited for
            child.kill()
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


class SharedNorms(LayerSync):
    """Batch normalisations by the batches of all GPUs, those of timm with the activation that they end in.

    Torch's own conversion takes such a layer for a plain normalisation, whose activation is never computed then.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Returns the model with normalisations that GPUs share."""
        return convert_sync_batchnorm(model)

    def revert(self, model: nn.Module) -> nn.Module:
        """Returns the model as it is: its weights have the same names, and nothing trains it on."""
        return model


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints are written aside and renamed, and read as data: nothing in them is executed."""

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Reads a checkpoint."""
        return torch.load(path, map_location="cpu", weights_only=True)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Writes a checkpoint, whole or not at all."""
        with write_aside(Path(path)) as aside:
            super().save_checkpoint(checkpoint, aside, storage_options)


class EpochLog(Callback):
    """Seeds every epoch, measures it, shows it, and is saved with the checkpoint."""

    def __init__(self, name: str, schedule: Schedule, steps: int, reporter: Reporter) -> None:
        self.name, self.schedule, self.steps, self.reporter = name, schedule, steps, reporter
        self.epochs: list[EpochRecord] = []
        self._parent: int | None = None  # the process that started this one, where several share the work
        self._bar = ExitStack()  # empty where training never started, as in the process that starts others

    def state_dict(self) -> dict[str, Any]:
        """Returns the record of the epochs, for the checkpoint."""
        return {"epochs": [epoch.present() for epoch in self.epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the record of the epochs from a checkpoint."""
        self.epochs = [EpochRecord(**epoch) for epoch in state_dict["epochs"]]

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Shows the bar."""
        if not trainer.is_global_zero or trainer.world_size > 1:
            self._parent = os.getppid()
        reporter = self.reporter if trainer.is_global_zero else Reporter(quiet=True)
        self._advance = self._bar.enter_context(reporter.bar(self.name, self.steps, "steps"))

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Takes the bar away."""
        self._bar.close()

    def on_exception(self, *_: Any) -> None:
        """Takes the bar away."""
        self._bar.close()

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Seeds the epoch and starts its clock."""
        seed_epoch(self.schedule.seed * _SEED_STRIDE + trainer.current_epoch)
        self._begun = self._idle_since = time.perf_counter()
        self._waited, self._loss, self._steps = 0.0, 0.0, 0
        self._rates: list[float] = []
        self._terms = Means()

    def on_train_batch_start(self, *_: Any) -> None:
        """Counts the time spent waiting for data."""
        if self._parent is not None and os.getppid() != self._parent:
            os._exit(1)  # nobody is left who would take the result
        self._waited += time.perf_counter() - self._idle_since

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: Any,
        outputs: Any,
        batch: Any,  # noqa: ARG002
        number: int,
    ) -> None:
        """Counts the loss and moves the bar; a loss that is no finite number ends the training."""
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # by which Lightning divides it
        if not math.isfinite(loss):
            rate = max(group["lr"] for optimiser in trainer.optimizers for group in optimiser.param_groups)
            raise BadInput(
                f"{self.name}: training diverged: the loss is {loss} at step {trainer.global_step} (batch {number + 1} "
                f"of epoch {trainer.current_epoch + 1}, learning rate {rate:.2g}); lower the learning rate of this "
                "stage. What the last finished epoch left is kept."
            )
        self._loss += loss
        self._steps += 1
        self._rates += _rate_factor(trainer)
        self._terms.add(getattr(module, "terms", {}))  # of others than methods there are none
        self._advance(trainer.global_step, f"loss {self._loss / self._steps:.4f}")
        self._idle_since = time.perf_counter()

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keeps the record of the epoch."""
        seconds = time.perf_counter() - self._begun
        own = torch.tensor(self._loss / max(1, self._steps), device=module.device)
        loss = float(trainer.strategy.reduce(own, reduce_op="mean"))
        terms = self._terms.over_all(trainer.strategy)
        rate = sum(self._rates) / len(self._rates) if self._rates else None
        self.epochs.append(
            EpochRecord(
                loss=round(loss, 6),
                seconds=round(seconds, 2),
                waiting=round(self._waited / seconds, 4),
                rate=None if rate is None else round(rate, 4),
                terms={name: round(value, 6) for name, value in terms.items() if math.isfinite(value)} or None,
            )
        )


def _rate_factor(trainer: lightning.Trainer) -> list[float]:
    """The learning rate of the step that is done, as a share of what it is at most; nothing without a schedule."""
    for config in trainer.lr_scheduler_configs:
        factors = getattr(config.scheduler, "lr_lambdas", None)
        if factors:
            told = getattr(factors[0], "of_start", factors[0])
            return [float(told(max(0, trainer.global_step - 1)))]
    return []


def _quieten() -> None:
    """Lightning's advice is for people who call it themselves."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
