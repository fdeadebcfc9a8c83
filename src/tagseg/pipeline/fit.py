"""`fit`: photographs and tags in, a segmentation network out, in stages."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tagseg.data.accumulator import Accumulator
from tagseg.data.dataset import Dataset, raise_problems
from tagseg.files import write_aside, write_json
from tagseg.labels import MAX_CLASSES
from tagseg.cores import cpu_count
from tagseg.data.map_store import MapStore
from tagseg.data.reading import FileFacts, inspect_files, read_dataset, remembered
from tagseg.errors import BadInput, explain_full_disk, nearest
from tagseg.methods.base import load_method, uses_saliency
from tagseg.methods.refinements.base import check_window, load_refinement
from tagseg.networks.backbone import Backbone, stand_in
from tagseg.pipeline.accumulating import open_accumulator, store_accumulated
from tagseg.pipeline.affinity import MAPS, AffinityStage, choose_thresholds
from tagseg.pipeline.masking import MaskFolder, choose_background, make_masks
from tagseg.pipeline.measure import measure
from tagseg.pipeline.mining import Miner, mine
from tagseg.progress import Reporter
from tagseg.pipeline.reporting import gather
from tagseg.pipeline.run_folder import MARKER, STAGES, RunFolder, StageResult
from tagseg.pipeline.saliency import find_source, from_folder, make_saliency, maps_digest, with_saliency
from tagseg.pipeline.segmenting import own_model, segments_itself, teach
from tagseg.pipeline.settings import LEARNT, FitSettings, resolve
from tagseg.pipeline.training import Schedule, check_processes, save_network, train
from tagseg.report.html import write_report

FILES = "files.json"  # what was found in the photographs, so that they are not all opened again
PHOTOGRAPH_MB = 0.04  # room for a photograph's maps, pseudo-mask and prediction


@dataclass(frozen=True)
class FitResult:
    """Where everything lies. `metrics` is empty when there are no masks to measure with.

    `report` and `model` are None when the run was told to end before they are made.
    """

    folder: Path
    report: Path | None
    model: Path | None
    metrics: dict[str, Any]


def fit(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: str = "cam",
    settings: dict[str, Any] | None = None,
    until: str = "report",
    skip_bad: bool = False,
    quiet: bool = False,
) -> FitResult:
    """Train a segmentation network from tagged photographs.

    Called again with the same `out` it goes on from the last completed piece of work; a stage whose settings or
    inputs changed is done again.

    Args:
        data: folder of the data set (see `tagseg.data.reading.read_dataset`).
        out: folder of the run.
        recipe: a method, `DATASET/METHOD`, or a YAML file.
        settings: dotted keys to values, e.g. `{"train.epochs": 4, "backbone": "mobilenetv2_100"}`.
        until: the last stage to do, of saliency, train, integral, mine, affinity, masks, segment and report; `"train"`
            gives a classifier to explain.
        skip_bad: leave out photographs with problems instead of stopping at the first.
        quiet: print nothing.

    Raises:
        BadInput: with one sentence that says what is wrong and how to mend it.
    """
    if until not in STAGES:
        raise BadInput(
            f"until '{until}': there is no such stage{nearest(until, list(STAGES)) or '.'} Known: {', '.join(STAGES)}."
        )
    reporter = Reporter(quiet)
    chosen = resolve(recipe, settings)
    out = Path(out)
    dataset, facts = _open(Path(data), out, chosen, skip_bad, reporter)
    if len(dataset.classes) > MAX_CLASSES and until != "train":
        raise BadInput(
            f"{data}: {len(dataset.classes)} classes do not fit an 8-bit mask ({MAX_CLASSES} at most); "
            "end with the classifier (--until train)."
        )
    needed_mb = _check_networks(chosen, len(dataset.classes)) + PHOTOGRAPH_MB * len(dataset.samples)
    run = RunFolder(out, dataset.root, facts.digest(dataset.train), needed_mb, reporter.say)
    with explain_full_disk(out):
        write_json(out / FILES, facts)
    return _Fit(dataset, facts, chosen, run, reporter).run(until)


def _open(
    root: Path, out: Path, settings: FitSettings, skip_bad: bool, reporter: Reporter
) -> tuple[Dataset, FileFacts]:
    """Read the data set and look at every file; without `skip_bad` the first problem ends it."""
    known = remembered(out / FILES) if (out / MARKER).exists() else FileFacts()
    dataset = read_dataset(root, settings.data.tags)
    with reporter.bar("check", len(dataset.samples), "photographs") as advance:
        dataset, facts = inspect_files(dataset, known, advance, threads=cpu_count())
    raise_problems([p for p in dataset.problems if not skip_bad or p.sample is None], root)
    for problem in dataset.problems:
        reporter.say(f"skipped: {problem.text}")
    dataset = dataset.without({p.sample for p in dataset.problems if p.sample is not None})
    if not dataset.train:
        raise BadInput(f"{root}: no photograph is left for training.")
    return dataset, facts


class _Fit:
    """The stages over one set of settings; each method is one stage."""

    def __init__(
        self, dataset: Dataset, facts: FileFacts, settings: FitSettings, run: RunFolder, reporter: Reporter
    ) -> None:
        self.data, self.facts, self.settings = dataset, facts, settings
        self.folder, self.reporter = run, reporter
        self.num_classes = len(dataset.classes)
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(cpu_count())

    def run(self, until: str) -> FitResult:
        stages: dict[str, StageResult] = {}
        for name in STAGES[: STAGES.index(until) + 1]:
            if self._has_stage(name):
                stages[name] = getattr(self, name)(stages)
        path = self.folder.path
        return FitResult(
            folder=path,
            report=path / "report.html" if "report" in stages else None,
            model=path / "segment" if "segment" in stages else None,
            metrics=stages["report"].values["metrics"] if "report" in stages else {},
        )

    def _has_stage(self, name: str) -> bool:
        if name == "saliency":
            return self.settings.masks.saliency or self._learns_saliency
        if name == "integral":
            return self._integral is not None
        return name != "affinity" or self.settings.masks.learnt is not None

    def saliency(self, _: dict[str, StageResult]) -> StageResult:
        """Only where something uses it. From here on every training photograph has a saliency map."""
        source = find_source(self.settings.data.saliency)
        self.data = from_folder(self.data, source)
        inputs = {
            "photographs": self.facts.digest(self.data.train),
            "source": source,
            "maps": maps_digest(self.data.train, source),
        }

        def work(folder: Path) -> dict[str, Any]:
            return {"made": make_saliency(self.data.train, source, folder, self.reporter)}

        result = self._stage("saliency", inputs, work)
        self.data = replace(self.data, train=with_saliency(self.data.train, source, self.folder.path / "saliency"))
        return result

    def train(self, stages: dict[str, StageResult]) -> StageResult:
        s = self.settings
        inputs = {
            "photographs": self.facts.digest(self.data.train),
            "classes": list(self.data.classes),
            "method": getattr(load_method(s.method), "first", s.method),
            "backbone": s.backbone,
            "weights": _weights_digest(s.weights),
            "seed": s.seed,
            "settings": s.train.model_dump(mode="json", exclude={"integral"}),
        }
        if self._learns_saliency:
            inputs["saliency"] = stages["saliency"].key

        def work(folder: Path) -> dict[str, Any]:
            schedule = Schedule(s.train.epochs, s.train.batch_size, s.seed, s.train.batch_size_at)
            torch.manual_seed(s.seed)
            method = load_method(s.method)(
                s.backbone, s.weights, self.num_classes, s.train, schedule.steps(len(self.data.train))
            )
            if self._accumulates:
                method.accumulated = open_accumulator(method, folder, self.data.train, self.facts)
            views = method.training_views(self.data.train, s.seed)
            epochs = train(method, views, schedule, folder, "train", self.reporter, s.processes)
            save_network(method, folder / "attention.safetensors")
            if self._accumulates:
                method.accumulated.close()
            return {"epochs": epochs}

        return self._stage("train", inputs, work)

    def integral(self, stages: dict[str, StageResult]) -> StageResult:
        """Only where the method has a second network that learns the cumulative maps of the first."""
        s, own = self.settings, self._integral
        inputs = {"train": stages["train"].key, "settings": own.model_dump(mode="json")}

        def work(folder: Path) -> dict[str, Any]:
            schedule = Schedule(own.epochs, own.batch_size, s.seed)
            torch.manual_seed(s.seed + 2)
            network = load_method(s.method).integral(
                s.backbone, s.weights, self.num_classes, own, schedule.steps(len(self.data.train))
            )
            network.accumulated = self._accumulated()
            views = network.training_views(self.data.train, s.seed + 2)
            epochs = train(network, views, schedule, folder, "integral", self.reporter, s.processes)
            save_network(network, folder / "attention.safetensors")
            return {"epochs": epochs}

        return self._stage("integral", inputs, work)

    def mine(self, stages: dict[str, StageResult]) -> StageResult:
        """Class maps of the training photographs: cumulative ones as they are, else by the network."""
        before = stages.get("integral", stages["train"])
        inputs: dict[str, Any] = {"train": before.key}
        if not self._keeps_maps:
            inputs["settings"] = self.settings.mine.model_dump(mode="json")

        def work(folder: Path) -> dict[str, Any]:
            with self.reporter.bar("mine", len(self.data.train), "photographs") as advance:
                if self._keeps_maps:
                    store_accumulated(self._accumulated(), self.data.train, self.num_classes, folder, advance)
                else:
                    mine(self._miner(), self.data.train, self.facts, folder, advance)
            return {"bytes": sum(f.stat().st_size for f in folder.glob("*.safetensors"))}

        return self._stage("mine", inputs, work)

    def affinity(self, stages: dict[str, StageResult]) -> StageResult:
        """Only where the refinement begins with one that learns."""
        s = self.settings
        name = s.masks.learnt
        assert name is not None
        own = getattr(s.masks, name)
        inputs = {
            "mine": stages["mine"].key,
            "refinement": name,
            "background": s.masks.background,
            "settings": own.model_dump(mode="json"),
        }

        def work(folder: Path) -> dict[str, Any]:
            store = MapStore(self.folder.path / "mine")
            corners = self._attention().backbone.corners
            thresholds = choose_thresholds(choose_background(store, self.data.train, s.masks), own)
            stage = AffinityStage(name, own, s.backbone, s.weights, store, corners, folder)
            epochs = stage.run(self.data.train, thresholds, s.seed, self.reporter)
            return {"thresholds": {k: round(v, 4) for k, v in asdict(thresholds).items()}, "epochs": epochs}

        return self._stage("affinity", inputs, work)

    def masks(self, stages: dict[str, StageResult]) -> StageResult:
        s = self.settings.masks
        inputs = {"mine": stages["mine"].key, "settings": s.model_dump(mode="json", exclude=set(LEARNT))}
        if s.learnt:
            inputs["affinity"] = stages["affinity"].key
        if s.saliency:
            inputs["saliency"] = stages["saliency"].key

        def work(folder: Path) -> dict[str, Any]:
            store = MapStore(self.folder.path / "mine")
            corners = self._attention().backbone.corners
            seeds = score = choose_background(store, self.data.train, s)
            if s.learnt:
                store = MapStore(self.folder.path / "affinity" / MAPS)
                decision = load_refinement(s.learnt).decision
                score = choose_background(store, self.data.train, s) if decision is None else decision
            with self.reporter.bar("masks", len(self.data.train), "photographs") as advance:
                make_masks(store, self.data.train, score, s, corners, folder, advance)
            return {"background": round(seeds, 4), "background_of_masks": round(score, 4)}

        return self._stage("masks", inputs, work)

    def segment(self, stages: dict[str, StageResult]) -> StageResult:
        s = self.settings.segment
        if segments_itself(self.settings):
            return self._own_segmentation(stages)
        inputs = {"masks": stages["masks"].key, "settings": s.model_dump(mode="json")}
        if s.weights:
            inputs["weights"] = _weights_digest(s.weights)

        def work(folder: Path) -> dict[str, Any]:
            torch.manual_seed(self.settings.seed + 1)
            name, weights = _segmentation_backbone(self.settings)
            backbone = Backbone(name, weights if s.start == "weights" else "random", s.output_stride)
            if s.start == "attention":
                backbone.load_state_dict(self._attention().backbone.state_dict())
            pretrained = weights != "random"
            backbone.freeze(early=pretrained, norms=pretrained)
            model, epochs = teach(
                backbone,
                self.data.train,
                MaskFolder(self.folder.path / "masks"),
                self.data.classes,
                s,
                seed=self.settings.seed,
                views_seed=self.settings.seed + 1,
                folder=folder,
                name="segment",
                reporter=self.reporter,
                processes=self.settings.processes,
            )
            model.save(folder)
            return {"epochs": epochs}

        return self._stage("segment", inputs, work)

    def _own_segmentation(self, stages: dict[str, StageResult]) -> StageResult:
        """The method's own network, taken as it is."""

        def work(folder: Path) -> dict[str, Any]:
            own_model(self._attention(), self.data.classes).save(folder)
            return {"epochs": []}

        return self._stage("segment", {"train": stages["train"].key, "source": "method"}, work)

    def report(self, stages: dict[str, StageResult]) -> StageResult:
        stamps = "".join(self.facts[s.name]["stamp"] for s in self.data.samples)
        inputs = {
            "masks": stages["masks"].key,
            "segment": stages["segment"].key,
            "evaluation": self.facts.digest(self.data.val),
            "files": hashlib.blake2b(stamps.encode(), digest_size=16).hexdigest(),
            "skipped": [problem.text for problem in self.data.problems],
        }

        def work(folder: Path) -> dict[str, Any]:
            background = stages["masks"].values["background"]
            run = self.folder.path
            miner = self._miner()
            accumulated = self._accumulated() if self._accumulates else None
            metrics = measure(self.data, self.facts, miner, run, folder, background, self.reporter, accumulated)
            records = {
                name: {**result.values, "seconds": result.seconds, "resumed": result.resumed}
                for name, result in stages.items()
            }
            page = gather(self.data, self.settings, records, metrics, run, miner.method.backbone.corners, accumulated)
            write_json(run / "metrics.json", metrics)
            with write_aside(run / "report.html") as aside:
                write_report(aside, page)
            return {"metrics": metrics}

        return self._stage("report", inputs, work)

    def _stage(self, name: str, inputs: dict[str, Any], work: Any) -> StageResult:
        result = self.folder.stage(name, inputs, work)
        (self.folder.path / name / "last.ckpt").unlink(missing_ok=True)  # only for going on within the stage
        return result

    @property
    def _learns_saliency(self) -> bool:
        return uses_saliency(load_method(self.settings.method), self.settings.train)

    @property
    def _accumulates(self) -> bool:
        return getattr(load_method(self.settings.method), "accumulates", False)

    @property
    def _integral(self) -> Any:
        """Settings of the second network, or None."""
        return getattr(self.settings.train, "integral", None)

    @property
    def _keeps_maps(self) -> bool:
        """Whether the maps that grew in training are those of the training photographs."""
        return self._accumulates and self._integral is None

    def _accumulated(self) -> Accumulator:
        return open_accumulator(self._classifier(), self.folder.path / "train", self.data.train, self.facts)

    def _classifier(self) -> Any:
        return self._network(load_method(self.settings.method), self.settings.train, "train")

    def _attention(self) -> Any:
        """The network whose maps count."""
        if self._integral is None:
            return self._classifier()
        return self._network(load_method(self.settings.method).integral, self._integral, "integral")

    def _network(self, kind: Any, own: Any, stage: str) -> Any:
        network = kind(self.settings.backbone, "random", self.num_classes, own, 1)
        network.load_state_dict(load_file(self.folder.path / stage / "attention.safetensors"))
        return network

    def _miner(self) -> Miner:
        return Miner(self._attention(), self.settings.mine)


def _check_networks(settings: FitSettings, num_classes: int) -> float:
    """Refuse, before anything is written, a backbone, weights or a stride that do not exist or do not fit.

    Returns:
        how many megabytes the two networks will take, with the optimiser's state, twice while it is replaced.
    """
    weights = stand_in(settings.backbone, settings.weights)
    attention = load_method(settings.method)(settings.backbone, weights, num_classes, settings.train, 1)
    if not segments_itself(settings):
        _check_segmentation(settings)
    integral = getattr(settings.train, "integral", None)
    batches = [part.batch_size for part in (settings.train, integral, settings.segment) if part is not None]
    check_processes(settings.processes, *batches, settings.train.batch_size_at(0))
    learnt = settings.masks.learnt
    if learnt:
        own = getattr(settings.masks, learnt)
        refinement = load_refinement(learnt)(settings.backbone, "random", own, 1)
        check_window(refinement.backbone, own, refinement.stride)
    return 8 * sum(p.numel() * p.element_size() for p in attention.parameters()) / 1e6


def _check_segmentation(settings: FitSettings) -> None:
    name, own_weights = _segmentation_backbone(settings)
    if settings.segment.start == "attention" and (settings.segment.backbone or settings.backbone) != settings.backbone:
        raise BadInput(
            f"segment.backbone '{name}': it cannot start from the classifier's weights; set segment.start=weights."
        )
    Backbone(name, stand_in(name, own_weights), settings.segment.output_stride)


def _segmentation_backbone(settings: FitSettings) -> tuple[str, str]:
    """Name and weights of the segmentation network's backbone."""
    own = settings.segment
    name = own.backbone or settings.backbone
    return name, own.weights or (settings.weights if name == settings.backbone else "pretrained")


def _weights_digest(weights: str) -> str:
    if weights in ("pretrained", "random"):
        return weights
    return hashlib.blake2b(Path(weights).read_bytes(), digest_size=16).hexdigest()
