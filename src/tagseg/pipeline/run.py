"""A run as a value: what goes in, and what its finished stages left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Dataset, MaskFolder, Sample
from tagseg.data.feature_store import FeatureStore
from tagseg.data.map_store import MapStore
from tagseg.data.reading import FileFacts
from tagseg.methods.base import Method
from tagseg.methods.saved import load_saved
from tagseg.methods.table import load_method
from tagseg.pipeline.records import Record
from tagseg.pipeline.run_folder import AFTER, Finished, RunFolder
from tagseg.pipeline.saliency import from_folder, with_saliency
from tagseg.pipeline.settings import FitSettings, segments_itself
from tagseg.pipeline.stages import ORDER
from tagseg.pipeline.training import Place, Sharing
from tagseg.progress import Reporter

R = TypeVar("R", bound=Record)
ACCUMULATED = "accumulated"  # the folder of cumulative maps, in that of the stage that makes them


@dataclass(frozen=True)
class Run:
    """A run of `fit`.

    data: the photographs and their tags.
    facts: what is known of their files.
    settings: everything that decides what is computed.
    folder: where everything lies.
    reporter: shows a person how far it is.
    finished: what every stage that is done has left, by its name.
    """

    data: Dataset
    facts: FileFacts
    settings: FitSettings
    folder: RunFolder
    reporter: Reporter
    finished: Mapping[str, Finished[Any]] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Returns the folder of the run."""
        return self.folder.path

    @property
    def method(self) -> type[Method]:
        """Returns the class of the run's method."""
        return load_method(self.settings.method)

    @property
    def sharing(self) -> Sharing:
        """Returns how batches are worked on."""
        return Sharing(self.settings.processes, self.settings.accumulate)

    def place(self, folder: Path, name: str) -> Place:
        """Returns where and how one of its networks is trained.

        Args:
            folder: for what that leaves.
            name: of the training, for people.
        """
        return Place(folder, name, self.reporter, self.sharing, self.settings.log)

    @property
    def uses_saliency(self) -> bool:
        """Returns whether anything in the run needs saliency maps of the training photographs."""
        return self.settings.masks.saliency or self.settings.train.learns_saliency

    @property
    def uses_encoder(self) -> bool:
        """Returns whether anything in the run needs the features of the frozen encoder."""
        return needs_encoder(self.settings)

    @property
    def training(self) -> tuple[Sample, ...]:
        """Returns the training photographs; where the run uses saliency, each with the path of its saliency map.

        Raises:
            BadInput: the folder of saliency maps that the settings name lacks one.
        """
        if not self.uses_saliency:
            return self.data.train
        source = self.settings.data.saliency
        return with_saliency(from_folder(self.data, source).train, source, self.path / "saliency")

    def keys(self, *names: str) -> dict[str, str]:
        """Returns the keys of the stages of these names that the run has, as inputs of a stage that depends on them."""
        unknown = set(names) - set(ORDER)
        if unknown:
            raise ValueError(f"there are no stages {unknown}")
        return {AFTER + name: self.finished[name].key for name in names if name in self.finished}

    def result(self, stage: Stage[R]) -> Finished[R]:
        """Returns what a stage left that is done."""
        return self.finished[stage.name]

    def classifier(self) -> Method:
        """Returns the network whose class maps count: the second one, where the method has one."""
        return load_saved(self.path / ("integral" if "integral" in self.finished else "train"))

    def accumulated(self) -> Accumulator | None:
        """Returns the cumulative maps of the training photographs; None where the method makes none."""
        if not self.method.accumulates:
            return None
        return Accumulator.open(self.path / "train" / ACCUMULATED, [sample.tags for sample in self.data.train])

    def class_maps(self) -> MapStore:
        """Returns the class maps of the training photographs."""
        return MapStore(self.path / "mine")

    def walked_maps(self) -> MapStore | None:
        """Returns the class maps after the walk of a refinement that learnt; None where none did."""
        return MapStore(self.path / "affinity" / "maps") if "affinity" in self.finished else None

    def features(self) -> FeatureStore:
        """Returns the features of the frozen encoder of the training photographs."""
        return FeatureStore(self.path / "features")

    def first_masks(self) -> MaskFolder:
        """Returns where the pseudo-masks that were made of class maps lie."""
        return MaskFolder(self.path / "masks")

    def pseudo_masks(self) -> MaskFolder:
        """Returns where the pseudo-masks of the training photographs lie: those of the decoder, where there is one."""
        return MaskFolder(self.path / self._labels)

    def corrected(self) -> set[str]:
        """Returns the names of the training photographs whose pseudo-masks a person has corrected."""
        return self.folder.corrected(self._labels)

    @property
    def _labels(self) -> str:
        return "relabel" if "relabel" in self.finished else "masks"


def needs_encoder(settings: FitSettings) -> bool:
    """Returns whether anything needs the features of the frozen encoder."""
    learnt = settings.segment.network == "decoder" and not segments_itself(settings)
    return settings.masks.spreads or settings.masks.taught is not None or learnt


@dataclass(frozen=True)
class Stage(Generic[R]):
    """One stage of `fit`.

    name: of the stage, and of its folder.
    record: the class of what it leaves as numbers.
    inputs: what its result depends on, as JSON; other inputs later mean that it is done again.
    work: makes what is not yet in the stage's folder, and returns the record. Whatever it leaves must not depend on
        whether it was interrupted.
    wanted: whether a run has this stage at all.
    outputs: files that it leaves in the run's folder itself.
    edited: whether a file of it that is not as it was written is whole, so that a person must have edited it.
    describe: what files of the stage are to hold that only say how its result is used, by name, as JSON; written
        whether the result was made now or before.
    """

    name: str
    record: type[R]
    inputs: Callable[[Run], dict[str, Any]]
    work: Callable[[Run, Path], R]
    wanted: Callable[[Run], bool] = lambda run: True  # noqa: ARG005
    outputs: tuple[str, ...] = ()
    edited: Callable[[Run, Path], bool] = lambda run, path: False  # noqa: ARG005
    describe: Callable[[Run, Path], dict[str, Any]] = lambda run, folder: {}  # noqa: ARG005

    def done(self, run: Run) -> Run:
        """Returns the run with this stage finished, now or before; a run that does not want it stays as it is."""
        if not self.wanted(run):
            return run
        inputs = self.inputs(run)
        work: Callable[[Path], R] = lambda folder: self.work(run, folder)  # noqa: E731
        edited: Callable[[Path], bool] = lambda path: self.edited(run, path)  # noqa: E731
        describe: Callable[[Path], dict[str, Any]] = lambda folder: self.describe(run, folder)  # noqa: E731
        result = run.folder.complete(self.name, inputs, self.record, work, self.outputs, edited, describe)
        return replace(run, finished={**run.finished, self.name: result})
