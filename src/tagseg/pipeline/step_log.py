"""A line every few steps of training: what published logs say, so that one can be laid beside the other."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import Strategy

from tagseg.errors import BadInput
from tagseg.files import write_aside
from tagseg.pipeline.settings import LogSettings

LOG = "log.csv"  # in the folder of a stage
FIRST = ("step", "epoch", "loss", "rate", "gradient_norm", "images_per_second", "waiting")


def check_logger(settings: LogSettings) -> None:
    """Refuses a log whose package is not installed.

    Raises:
        BadInput: it says which.
    """
    if settings.to != "csv" and importlib.util.find_spec(settings.to) is None:
        raise BadInput(f"log.to={settings.to}: it is not installed; run 'pip install {settings.to}'.")


def find_logger(settings: LogSettings, folder: Path, name: str) -> Logger | bool:
    """Returns Lightning's logger that the settings name, or False.

    Args:
        settings: of the log.
        folder: of the stage, beside which TensorBoard's and W&B's files lie.
        name: of the stage.
    """
    if settings.to == "tensorboard":
        return TensorBoardLogger(folder.parent, name="tensorboard", version=name)
    if settings.to == "wandb":
        place = folder.resolve()
        # what goes on is the same run there; its number follows from where it lies
        number = hashlib.blake2b(str(place).encode(), digest_size=8).hexdigest()
        title = f"{place.parent.name} {name}"
        return WandbLogger(project="tagseg", name=title, save_dir=folder.parent, id=number, resume="allow")
    return False


class Means:
    """Means of terms of the loss over batches; they stay on their device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[torch.Tensor, int]] = {}  # and of how many batches

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Adds the terms of a batch, which need not be the same in all of them."""
        for term, value in terms.items():
            total, count = self._sums.get(term, (torch.zeros((), device=value.device), 0))
            self._sums[term] = total + value, count + 1

    def over_all(self, strategy: Strategy) -> dict[str, float]:
        """Returns the means over all processes, all of which must ask."""
        return {t: float(strategy.reduce(total / n, reduce_op="mean")) for t, (total, n) in self._sums.items()}


class StepLog(Callback):
    """Writes `log.csv`, and tells Lightning's logger the same.

    A line has the step and the epoch (from 1), the mean of the loss and of its terms since the line before, the
    learning rate of the backbone (of what stands on it, where the backbone learns nothing), the norm of all gradients,
    photographs a second, and the share of the time that was spent waiting for them. A run that goes on writes over what
    it does again.

    Args:
        folder: of the stage.
        every: steps a line; the last one of all has a line in any case.
        steps: of the whole training.
    """

    def __init__(self, folder: Path, every: int, steps: int) -> None:
        self.path, self.every, self.steps = folder / LOG, every, steps
        self.lines: list[dict[str, float]] = []
        self._means = Means()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keeps the lines of the steps that need not be done again."""
        del module
        self.lines = [line for line in _read(self.path) if line["step"] <= trainer.global_step]
        self._step = trainer.global_step
        self._columns = _columns(self.lines)
        if trainer.is_global_zero:
            self._write()
        self._begin()

    def on_train_epoch_start(self, *_: Any) -> None:
        """Counts no time between epochs."""
        self._begin()

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, number: int) -> None:
        """Counts the time spent waiting for photographs."""
        del trainer, module, number
        self._waited += time.perf_counter() - self._idle_since
        self._photographs += math.prod(next(iter(batch.values())).shape[:-3])  # of images, or of their features

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """Measures the gradients of a step that will have a line."""
        del optimizer
        if self._due(trainer.global_step + 1):
            norms = [p.grad.detach().float().norm() for p in module.parameters() if p.grad is not None]
            self._norm = float(torch.stack(norms).norm()) if norms else 0.0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        """Writes a line, where one is due."""
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # by which Lightning divides it
        self._means.add({"loss": loss, **getattr(module, "terms", {})})
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            if self._due(self._step):
                self._line(trainer)
                self._begin()
        self._idle_since = time.perf_counter()

    def _due(self, step: int) -> bool:
        return step % self.every == 0 or step == self.steps

    def _begin(self) -> None:
        self._begun = self._idle_since = time.perf_counter()
        self._waited, self._photographs, self._norm = 0.0, 0, math.nan
        self._means = Means()

    def _line(self, trainer: lightning.Trainer) -> None:
        seconds = time.perf_counter() - self._begun
        line = {
            "step": self._step,
            "epoch": trainer.current_epoch + 1,
            "rate": trainer.optimizers[0].param_groups[0]["lr"],
            "gradient_norm": self._norm,
            "images_per_second": self._photographs * trainer.world_size / seconds,
            "waiting": self._waited / seconds,
            **self._means.over_all(trainer.strategy),
        }
        if not trainer.is_global_zero:
            return
        self.lines.append(line)
        if trainer.logger is not None:
            trainer.logger.log_metrics({k: v for k, v in line.items() if k != "step"}, step=self._step)
        if set(line) - set(self._columns):
            self._columns = _columns(self.lines)
            self._write()
            return
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(_short(line))

    def _write(self) -> None:
        with write_aside(self.path) as aside, open(aside, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(map(_short, self.lines))


def _columns(lines: Sequence[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys([*FIRST, *(name for line in lines for name in line)]))


def _short(line: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in line.items() if math.isfinite(value)}


def _read(path: Path) -> list[dict[str, float]]:
    """The lines of a log; none where it cannot be read, for nothing depends on it."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in line.items() if k and v} for line in csv.DictReader(file) if line["step"]]
    except (OSError, ValueError, KeyError, csv.Error):
        return []
