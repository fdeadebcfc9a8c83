"""Ending a training that runs away: labels are made of the maps that they teach, and the two may leave each other.

What tells is the loss between them. It falls from epoch to epoch in a training that ends well; one in which it is
higher than when the labels set in has maps that get worse (docs/experiments/ktse.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback

from tagseg.pipeline.records import EpochRecord


class Epochs(Protocol):
    """What keeps the record of the epochs that are over."""

    epochs: list[EpochRecord]


def losses_of(epochs: Sequence[EpochRecord], term: str) -> list[float]:
    """Returns a part of the loss in every epoch that has it."""
    return [epoch.terms[term] for epoch in epochs if epoch.terms and term in epoch.terms]


def has_run_away(epochs: Sequence[EpochRecord], term: str) -> bool:
    """Returns whether a part of the loss is higher in the last epoch than in the first one that has it."""
    losses = losses_of(epochs, term)
    return len(losses) > 1 and losses[-1] > losses[0]


class EndRunaway(Callback):
    """Ends a training as soon as it has run away, and keeps the weights of the epoch before the labels set in.

    Those are worth more than the ones of later epochs, for in a run that runs away the first labels are wrong already.
    It is asked once the epoch's record is kept, and before the checkpoint is written, in which the weights lie
    (`weights_to_go_back_to`). Where labels are there from the first epoch on, the weights are those of that epoch.

    Args:
        history: has the epochs.
        term: of the loss, which is to fall.
    """

    def __init__(self, history: Epochs, term: str) -> None:
        self.history, self.term = history, term
        self.ended = False
        self.epoch = 0  # counted from 1, whose weights these are
        self.weights: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the weights to go back to, and whether the training has ended, for the checkpoint."""
        return {"ended": self.ended, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them up from a checkpoint."""
        self.ended, self.epoch, self.weights = (state_dict[name] for name in ("ended", "epoch", "weights"))

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Ends at once what had ended when it was killed."""
        trainer.should_stop = trainer.should_stop or self.ended

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keeps the weights until the labels set in, and ends the training if it has run away."""
        epochs = self.history.epochs
        if len(epochs) == 1 or not losses_of(epochs, self.term):
            self.epoch = len(epochs)
            self.weights = {name: value.detach().clone().cpu() for name, value in module.state_dict().items()}
        if self.weights and has_run_away(epochs, self.term):
            self.ended = trainer.should_stop = True


def weights_to_go_back_to(callbacks: dict[str, Any]) -> tuple[int, dict[str, torch.Tensor]] | None:
    """Returns the epoch, counted from 1, and the weights to which a training goes back that ran away; None if it did
    not.

    Args:
        callbacks: what they left in the last checkpoint. It is the same whichever process wrote that, and whether or
            not the training was killed between then and now.
    """
    state = callbacks.get(EndRunaway.__qualname__)
    return (state["epoch"], state["weights"]) if state is not None and state["ended"] else None
