"""What the stages of a run leave behind as numbers: typed records, written into each stage's `stage.json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from tagseg.evaluation.coverage import ClassCoverage, CoverageTable
from tagseg.evaluation.iou import ScoreTable


class Record(BaseModel):
    """The base of all records: typed, frozen, and JSON on the disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def present(self) -> dict[str, Any]:
        """Returns the record as plain values for JSON, without the optional parts that are not there."""
        return {
            name: _plain(value)
            for name, field in type(self).model_fields.items()
            if (value := getattr(self, name)) is not None or field.is_required()
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.present()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list) else value


class EpochRecord(Record):
    """One epoch of training.

    loss: the mean over its steps.
    seconds: how long it took.
    waiting: the share of them spent waiting for data.
    rate: of learning, the mean over its steps, as a share of what it is at most (0..1).
    terms: means over the steps that told them, of parts of the loss and of shares, by name.
    kept: whether training ran away later on, and went back to the network of this epoch.
    """

    loss: float
    seconds: float
    waiting: float
    rate: float | None = None
    terms: dict[str, float] | None = None
    kept: bool | None = None


class SaliencyRecord(Record):
    """How many saliency maps the run made itself."""

    made: int


class FeaturesRecord(Record):
    """How many features are stored, those of mirror images counted too, and how many bytes they take."""

    entries: int
    bytes: int


class TrainingRecord(Record):
    """The epochs of a network's training; none where nothing was trained."""

    epochs: list[EpochRecord]


class MineRecord(Record):
    """How many bytes the class maps take."""

    bytes: int


class PremiseRecord(Record):
    """What a method builds on (see `tagseg.pipeline.premise`); None where it is not known.

    recall, noise: of the maps that the method starts from, cut at half their maximum, percent; they need masks.
    covered: how much of a tagged photograph its strongest map covers, cut at half, percent.
    tags_map: the mean average precision of the tags that the network finds in its training photographs, percent.
    maps_tags_map: the same of the network that gives the class maps, where that one knows fewer of them.
    rate: the mean learning rate after the warm-up, as a share of its start.
    trusted: the share of the tags that the classifier finds itself in the last epoch (OAA).
    saturated: the share of the affinities that learn nothing any more, in the last epoch (AFA).
    disagreement: the loss between the maps and the labels that are made of them in the last epoch, as a multiple of
        that in the first epoch after the warm-up (KTSE); above 1 they run away from each other.
    kept_epoch: the epoch, counted from 1, to whose network a training went back that ran away (KTSE).
    unlearnt: how much of the objects lies where the method teaches a network that no class is, percent (SeeNet); it
        needs masks.
    sentences: what is not as the method needs it, and how to mend it.
    """

    recall: float | None = None
    noise: float | None = None
    covered: float | None = None
    tags_map: float | None = None
    maps_tags_map: float | None = None
    rate: float | None = None
    trusted: float | None = None
    saturated: float | None = None
    disagreement: float | None = None
    kept_epoch: int | None = None
    unlearnt: float | None = None
    sentences: list[str]


class AffinityRecord(TrainingRecord):
    """The map values between which nothing was sure, and the epochs of the affinity network."""

    thresholds: dict[str, float]


class MasksRecord(Record):
    """The background score that cuts class maps, and that which cut the pseudo-masks, in 0..1."""

    background: float
    background_of_masks: float


class Oracle(Record):
    """The background score that masks would have chosen, in 0..1, and its mIoU in percent."""

    background: float
    miou: float


class Curve(Record):
    """The mIoU, in percent, at background scores from 0 to 1."""

    background: list[float]
    miou: list[float | None]


class RoundCoverage(Record):
    """Recall and noise of cumulative maps after `round` rounds, percent: means over classes, and those of every class;
    None where not defined."""

    round: int
    recall: float | None
    noise: float | None
    classes: dict[str, ClassCoverage]


class TrainMetrics(Record):
    """What the masks of the training photographs say of seeds and pseudo-masks.

    photographs: how many have a mask.
    background: the score that cut the seeds, chosen without masks, in 0..1.
    seeds: of the class maps cut there, the tags given.
    oracle: the score that masks would have chosen.
    coverage: of class maps cut at half their maximum.
    curve: of seeds, over the background score.
    pseudo_masks: of the pseudo-masks, those that a person has corrected left out.
    corrected: how many a person has corrected.
    with_corrections: of all pseudo-masks; None where nobody has corrected any.
    accumulated: of cumulative maps, after every round, where the method makes some.
    """

    photographs: int
    background: float
    seeds: ScoreTable
    oracle: Oracle
    coverage: CoverageTable
    curve: Curve
    pseudo_masks: ScoreTable
    corrected: int = 0
    with_corrections: ScoreTable | None = None
    accumulated: list[RoundCoverage] | None = None


class ValMetrics(Record):
    """What is known of the evaluation photographs; all but the first needs masks.

    tags_map: the mean average precision of the tags that the classifier finds, percent; None where nothing has a tag.
    photographs: how many have a mask.
    class_maps: of class maps of the tags that the classifier finds.
    class_maps_with_tags: of class maps of the true tags.
    segmentation: of the segmentation network, which looks at a photograph once.
    protocol: of the segmentation network by the test protocol of the run, where that is another.
    """

    tags_map: float | None = None
    photographs: int | None = None
    class_maps: ScoreTable | None = None
    class_maps_with_tags: ScoreTable | None = None
    segmentation: ScoreTable | None = None
    protocol: ScoreTable | None = None


class Metrics(Record):
    """Everything that was measured; a split without masks or without photographs is None."""

    train: TrainMetrics | None = None
    val: ValMetrics | None = None

    def score_tables(self) -> dict[str, ScoreTable]:
        """Returns the tables that a summary shows, those that were measured, by name."""
        train, val = self.train, self.val
        tables = {
            "seeds": train.seeds if train else None,
            "pseudo-masks": train.pseudo_masks if train else None,
            "with corrections": train.with_corrections if train else None,
            "class maps": val.class_maps if val else None,
            "segmentation": val.segmentation if val else None,
            "test protocol": val.protocol if val else None,
        }
        return {name: table for name, table in tables.items() if table is not None}


class ReportRecord(Record):
    """What the report shows."""

    metrics: Metrics
