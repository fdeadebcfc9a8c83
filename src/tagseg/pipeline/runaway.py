"""Ending a training that runs away: labels are made of the maps that they teach, and the two may leave each other.

What tells is the loss between them. It falls from epoch to epoch in a training that ends well; one in which it is
higher than when it set in has maps that get worse (docs/experiments/ktse.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback

from tagseg.pipeline.records import EpochRecord
from tagseg.progress import Reporter


class Epochs(Protocol):
    """What keeps the record of the epochs that are over."""

    epochs: list[EpochRecord]


def losses_of(epochs: Sequence[EpochRecord], term: str) -> dict[int, float]:
    """Returns a term of the loss by epoch, counted from 0, of the epochs that have it."""
    return {number: epoch.terms[term] for number, epoch in enumerate(epochs) if epoch.terms and term in epoch.terms}


def disagreement(epochs: Sequence[EpochRecord], term: str) -> float | None:
    """Returns a term of the loss in the last epoch as a multiple of that in the first epoch that has it; None before
    there are two. Above 1 the training has run away."""
    losses = list(losses_of(epochs, term).values())
    return round(losses[-1] / losses[0], 3) if len(losses) > 1 and losses[0] > 0 else None


def last_before(epochs: Sequence[EpochRecord], term: str) -> int:
    """Returns how many epochs passed before a term of the loss set in; 1 if it did in the first."""
    return max(1, min(losses_of(epochs, term), default=len(epochs)))


class EndRunaway(Callback):
    """Ends a training as soon as it has run away, with the weights from before the labels set in.

    Those are worth more than the ones of any later epoch, for in a run that runs away the first labels are wrong
    already. It is asked once the epoch's record is kept, and before the checkpoint is written, in which the weights
    lie until the training is over; so a training that is killed and goes on ends with the same ones.

    Args:
        history: has the epochs.
        term: of the loss, which is to fall.
        name: of the training, for people.
        reporter: is told that the training was ended.
    """

    def __init__(self, history: Epochs, term: str, name: str, reporter: Reporter) -> None:
        self.history, self.term, self.name, self.reporter = history, term, name, reporter
        self.ended = False
        self.weights: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the weights to go back to, and whether the training has ended, for the checkpoint."""
        return {"ended": self.ended, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes both up from a checkpoint."""
        self.ended, self.weights = state_dict["ended"], state_dict["weights"]

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:  # noqa: ARG002
        """Ends at once what had ended when it was killed."""
        trainer.should_stop = trainer.should_stop or self.ended

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keeps the weights until the labels set in, and ends the training if it has run away."""
        epochs = self.history.epochs
        if last_before(epochs, self.term) == len(epochs):
            self.weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        ratio = disagreement(epochs, self.term)
        if ratio is not None and ratio > 1:
            self.ended = trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Goes back to the weights from before the labels, if the training has run away."""
        if not self.ended:
            return
        module.load_state_dict(self.weights)
        if trainer.is_global_zero:
            epochs = self.history.epochs
            self.reporter.say(
                f"{self.name}: ended after epoch {len(epochs)}, for the maps agree less and less with the labels that "
                f"are made of them; the network of epoch {last_before(epochs, self.term)} is kept"
            )
