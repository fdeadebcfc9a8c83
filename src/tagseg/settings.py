"""The common base of every settings class: typed, frozen, and strict about unknown keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from tagseg.errors import BadInput, nearest

Count = Annotated[int, Field(ge=1, le=100_000)]  # of epochs, photographs, channels; more is a slip of the finger
StepShare = Annotated[float, Field(gt=0, le=1)]  # of all steps
SidePixels = Annotated[int, Field(ge=16, le=16384)]
OutputStride = int | Literal["auto"] | None  # pixels a cell; "auto": 16 where a network can have it; None: its own
Pooling = Literal["mean", "top", "lse"]  # of class maps to tag scores (see `tagseg.networks.pooling`)
# what batch normalisations that come pretrained normalise by while they learn: "batch", the batch, as in any training;
# "frozen", what they know, of which nothing changes, as most published codes have it
Norms = Literal["batch", "frozen", "statistics"]
# up to the end of the first stage with this stride pretrained layers stay as they are; 0: all learn; "all": none does,
# and only what stands on the backbone learns, from views as ever
EarlyStride = Literal[0, 2, 4, 8, "all"]
Statistics = Literal["backbone", "imagenet", "coco"]
Compat = Literal["paper", "official"]  # what is right, or what a published implementation does


class Settings(BaseModel):
    """Typed settings; an unknown key is an error that names the nearest one (see `parse`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    later: ClassVar[Mapping[str, Any]] = {}
    """The settings of a class that came when there were runs already, with what those runs did (see `as_ever`)."""


def as_ever(settings: Settings) -> set[str]:
    """Returns the names of settings that came when there were runs already (`later`), and say what these did.

    What a run depends on leaves them out, so that nothing of an older run is made again.
    """
    return {name for name, was in type(settings).later.items() if getattr(settings, name) == was}


class TrainSettings(Settings):
    """The settings that every method has; a method adds its own, and defaults for these."""

    epochs: Count
    batch_size: Count
    side: SidePixels  # of the square training window, pixels
    # whether the backbone learns nothing: its features of every photograph, whose long side is then `side`, are
    # computed once, and an epoch costs seconds; for methods that need nothing else of it
    frozen: bool = False

    def batch_size_at(self, epoch: int) -> int:
        """Returns how many photographs a step of an epoch sees; epochs count from 0."""
        del epoch
        return self.batch_size

    def steps(self, photographs: int, epochs: int | None = None) -> int:
        """Returns how many optimiser steps so many epochs with so many photographs take; None: all epochs."""
        epochs = self.epochs if epochs is None else epochs
        return sum(-(-photographs // self.batch_size_at(epoch)) for epoch in range(epochs))

    @property
    def warmup_epochs(self) -> int:
        """Returns how many epochs pass before that sets in which makes the method more than a classifier."""
        return 0

    @property
    def learns_saliency(self) -> bool:
        """Returns whether training needs a saliency map of every photograph."""
        return False

    @property
    def successor(self) -> TrainSettings | None:
        """Returns the settings of a second network, which learns the cumulative maps of the first, or None."""
        return None


def _ascending(scales: tuple[float, float]) -> tuple[float, float]:
    if scales[0] > scales[1]:
        raise ValueError("the smaller scale comes first")
    return scales


ScaleRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_ascending)]


def parse_saved(kind: type[Settings], values: dict[str, Any], where: str) -> Any:
    """Builds settings of what an earlier version may have written: what it did not know is as it was then.

    Raises:
        BadInput: as `parse`.
    """
    return parse(kind, {**kind.later, **values}, where)


def parse(kind: type[Settings], values: dict[str, Any], where: str, prefix: str = "") -> Any:
    """Build settings of `kind` from plain values; `prefix` goes before keys in messages.

    Raises:
        BadInput: naming the first key that is unknown or has an impossible value.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = prefix + ".".join(_keys(kind, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = _keys_at(kind, first["loc"][:-1])
            hint = nearest(str(first["loc"][-1]), known) or f"; known: {', '.join(known)}."
            raise BadInput(f"{where}: there is no setting '{path}'{hint}") from error
        reasons = " or ".join(
            e["msg"].removeprefix("Value error, ") for e in error.errors() if e["loc"][:1] == first["loc"][:1]
        )
        raise BadInput(f"{where}: setting '{path}' cannot be {first['input']!r}: {reasons}.") from error


def _keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The part of an error's path that a person wrote: keys, not positions or alternatives of a type."""
    keys = []
    for depth, part in enumerate(path):
        keys.append(str(part))
        if str(part) not in _keys_at(kind, path[:depth]) or _model_at(kind, path[: depth + 1]) is None:
            break
    return keys


def _keys_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    model = _model_at(kind, path)
    return [] if model is None else list(model.model_fields)


def _model_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel] | None:
    for part in path:
        field = kind.model_fields.get(str(part))
        choices = () if field is None else (field.annotation, *get_args(field.annotation))  # `Settings | None` too
        models = [c for c in choices if isinstance(c, type) and issubclass(c, BaseModel)]
        if not models:
            return None
        kind = models[0]
    return kind
