"""`fit`: photographs and tags in, a segmentation network out, in stages."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tagseg.cores import cpu_count
from tagseg.data.dataset import Dataset, raise_problems
from tagseg.data.reading import FileFacts, inspect_files
from tagseg.errors import BadInput, explain_full_disk, nearest
from tagseg.files import RUN_MARKER
from tagseg.labels import MAX_CLASSES
from tagseg.pipeline.photographs import photographs_of
from tagseg.pipeline.records import Metrics
from tagseg.pipeline.run_folder import RunFolder
from tagseg.pipeline.settings import DEFAULT_RECIPE, FitSettings, resolve
from tagseg.pipeline.stages import ORDER, stages
from tagseg.progress import Reporter

if TYPE_CHECKING:
    from tagseg.pipeline.cluster import Team
    from tagseg.pipeline.run import Run

FILES = "files.json"  # what was found in the photographs, so that they are not all opened again
PHOTOGRAPH_MB = 0.04  # room for a photograph's maps, pseudo-mask and prediction


@dataclass(frozen=True)
class FitResult:
    """Where everything of a run lies.

    folder: of the run.
    report, model: the page, and the folder of the segmentation network; None when the run was told to end before.
    metrics: what was measured, as far as there are masks to measure with.
    helped: whether this process has only helped the first of those that were started together (docs/clusters.md).
    """

    folder: Path
    report: Path | None
    model: Path | None
    metrics: Metrics = field(default_factory=Metrics)
    helped: bool = False


def fit(
    data: Dataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: str = DEFAULT_RECIPE,
    settings: dict[str, Any] | None = None,
    saliency: str | None = None,
    until: str = "report",
    skip_bad: bool = False,
    quiet: bool = False,
) -> FitResult:
    """Trains a segmentation network from tagged photographs.

    Called again with the same `out` it goes on from the last completed piece of work; a stage whose settings or
    inputs changed is done again, and one of which files are missing or damaged is mended.

    Args:
        data: folder of the data set (see `tagseg.data.reading.read_dataset`), or one that `tagseg.read_samples` made of
            objects.
        out: folder of the run.
        recipe: a method, `DATASET/METHOD`, a YAML file, or the Python file of a method of your own; by default what
            makes good masks of photographs of your own within minutes.
        settings: dotted keys to values, e.g. `{"train.epochs": 4, "backbone": "mobilenetv2_100"}`.
        saliency: where saliency maps come from, for the method to learn from if it can, and else to score the
            background: a folder, `"auto"`, `"built-in"`, or the file of a network.
        until: the last stage to do, a name of `tagseg.pipeline.stages.ORDER`; `"train"` gives a classifier to explain.
        skip_bad: leave out photographs with problems instead of stopping at the first.
        quiet: print nothing.

    Raises:
        BadInput: with one sentence that says what is wrong and how to mend it.
    """
    if until not in ORDER:
        hint = nearest(until, list(ORDER)) or "."
        raise BadInput(f"until '{until}': there is no such stage{hint} Known: {', '.join(ORDER)}.")
    chosen = resolve(recipe, settings, saliency=saliency)
    return fit_as(data, Path(out), chosen, until, skip_bad, Reporter(quiet))


def fit_as(
    data: Dataset | str | os.PathLike[str],
    out: Path,
    chosen: FitSettings,
    until: str,
    skip_bad: bool,
    reporter: Reporter,
) -> FitResult:
    """Does the stages of a run up to `until`; see `fit`."""
    others = _others()
    if others is not None and others.helps:
        others.help()
        return FitResult(folder=out, report=None, model=None, helped=True)
    if others is not None and chosen.processes == 1:
        chosen = chosen.model_copy(update={"processes": others.size})
    failed = True
    try:
        photographs, facts = _inspected(data, out, chosen, until, skip_bad, reporter)
        run = _open(out, photographs, facts, chosen, reporter)
        for stage in stages(until):
            run = stage.done(run)
        failed = False
    finally:
        if others is not None:
            others.end(failed)
    report = run.finished.get("report")
    return FitResult(
        folder=run.path,
        report=None if report is None else run.path / "report.html",
        model=run.path / "segment" if "segment" in run.finished else None,
        metrics=Metrics() if report is None else report.record.metrics,
    )


def _others() -> Team | None:
    """The processes that torchrun or srun has started together with this one; to ask costs the import of torch."""
    if not {"TORCHELASTIC_RUN_ID", "SLURM_STEP_ID"} & set(os.environ):
        return None
    from tagseg.pipeline.cluster import team

    return team()


def room_mb(settings: FitSettings, data: Dataset) -> float:
    """Returns how many megabytes a run takes at most, after its networks have been tried.

    Raises:
        BadInput: a network does not exist, or does not fit.
    """
    from tagseg.pipeline.networks import check_networks

    networks_mb, features_mb = check_networks(settings, data.classes)
    return networks_mb + PHOTOGRAPH_MB * len(data.samples) + features_mb * len(data.train)


def _inspected(
    given: Dataset | str | os.PathLike[str],
    out: Path,
    settings: FitSettings,
    until: str,
    skip_bad: bool,
    reporter: Reporter,
) -> tuple[Dataset, FileFacts]:
    """Reads the data set and opens every file; without `skip_bad` the first problem ends it."""
    known = FileFacts.read(out / FILES) if (out / RUN_MARKER).exists() else FileFacts()
    data = photographs_of(given, out, tags=settings.data.tags, masks=settings.data.masks)
    root = data.root
    with reporter.bar("check", len(data.samples), "photographs") as advance:
        data, facts = inspect_files(data, known, advance, threads=cpu_count())
    raise_problems([p for p in data.problems if not skip_bad or p.sample is None], root)
    for note in data.notes:
        reporter.say(f"note: {note}")
    for problem in data.problems:
        reporter.say(f"skipped: {problem.text}")
    data = data.without({p.sample for p in data.problems if p.sample is not None})
    if not data.train:
        raise BadInput(f"{root}: no photograph is left for training.")
    if len(data.classes) > MAX_CLASSES and until != "train":
        raise BadInput(
            f"{root}: {len(data.classes)} classes do not fit an 8-bit mask ({MAX_CLASSES} at most); "
            "end with the classifier (--until train)."
        )
    return data, facts


def _open(out: Path, data: Dataset, facts: FileFacts, settings: FitSettings, reporter: Reporter) -> Run:
    """Opens the run's folder, after its networks have been tried; what computes is imported only now."""
    import torch

    from tagseg.pipeline.run import Run

    if (out / RUN_MARKER).is_file() and Path(settings.weights).resolve() == out.resolve():
        raise BadInput(f"weights {settings.weights}: a run cannot start from itself; choose another --out.")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(cpu_count())
    needed_mb = room_mb(settings, data)
    network = "train" if settings.train.successor is None else "integral"
    given = settings.data
    folder = RunFolder(
        out, data.root, facts.digest(data.train), needed_mb, reporter.say, network, given.masks, given.tags
    )
    with explain_full_disk(out):
        facts.write(out / FILES)
    return Run(data, facts, settings, folder, reporter)
