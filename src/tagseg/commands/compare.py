"""`compare`: methods beside each other on one data set, over several seeds, with equal updates or equal time.

Every row and seed is a run of `fit` up to its class maps, in a folder of its own, so that a comparison that was stopped
goes on. The maps of the training photographs are then cut and refined in every way that was asked for, always with a
background score that is chosen without masks, and held against the masks that the data set has.
"""

from __future__ import annotations

import importlib.resources
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tagseg.commands.comparison import Comparison
from tagseg.commands.measured import Chain, Measured, Numbers, machine_in_words
from tagseg.cores import cpu_count, in_processes
from tagseg.data.dataset import Dataset, Sample, at_even_steps, raise_problems
from tagseg.data.feature_store import FeatureStore
from tagseg.data.map_store import MapStore
from tagseg.data.reading import FileFacts, inspect_files
from tagseg.errors import BadInput, nearest
from tagseg.files import RUN_MARKER, make_folder, read_json, write_json
from tagseg.methods.table import load_method
from tagseg.networks.settings import CacheSettings
from tagseg.networks.weights import weights_digest
from tagseg.pipeline.card import prior_in_words
from tagseg.pipeline.featuring import store_features
from tagseg.pipeline.fit import FILES, fit
from tagseg.pipeline.networks import check_cells
from tagseg.pipeline.photographs import photographs_of
from tagseg.pipeline.run_folder import AFTER
from tagseg.pipeline.settings import FitSettings, known_settings, parse_yaml, resolve, yaml_fault
from tagseg.pipeline.timing import MAPS_ONLY, for_seconds, for_updates, updates_of
from tagseg.progress import Reporter
from tagseg.segmentation.encoder import load_encoder

MARKER, FEATURES, RUNS = "compare.json", "features", "runs"
RANKED = 120  # photographs at even steps, of which the gallery's are chosen
_ROWS = importlib.resources.files("tagseg") / "comparisons"


@dataclass(frozen=True)
class Row:
    """A row of the table: its name, a recipe, and settings that differ from it."""

    name: str
    recipe: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Task:
    """A run of a row: its settings with the seed, its folder, and what its maps are held against.

    `truth` is a digest that changes with the masks.
    """

    row: Row
    settings: dict[str, Any]
    run: Path
    data: Dataset
    truth: str
    chains: Sequence[Chain]
    features: Path | None
    measure: int | None
    machine: str
    quiet: bool


def compare(
    data: Dataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    rows: str | os.PathLike[str] | Sequence[str] | Mapping[str, tuple[str, Mapping[str, Any]]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    updates: int | None = None,
    seconds: float | None = None,
    refine: Sequence[str] = ("none", "proxy", "crf", "proxy+crf"),
    settings: Mapping[str, Any] | None = None,
    measure: int | None = None,
    jobs: int = 1,
    quiet: bool = False,
) -> Comparison:
    """Trains methods on the same photographs and holds their class maps and pseudo-masks against the masks there are.

    Called again with the same `out` it goes on; rows, seeds and refinements may be added, and what is done stays.

    Args:
        data: folder of the data set, or one that `tagseg.read_samples` made of objects.
        out: folder of the comparison; `compare.html`, `compare.md`, `compare.csv` and `gallery.jpg` say what was found.
        rows: names of methods and recipes; or a YAML file of rows, or the name of one that comes with tagseg; or
            `{name: (recipe, settings)}`.
        seeds: of the runs of every row.
        updates: optimiser steps that every row has (of two networks, each); None: as many as its recipe says.
        seconds: of training that every row has, by a short trial of each; epochs are whole.
        refine: chains of refinements that learn nothing; "none" cuts the maps as they are.
        settings: dotted keys to values, for all rows that know them.
        measure: how many of the training photographs that have masks the numbers of masks are of, at even steps; None:
            all. Scores are chosen by all photographs.
        jobs: runs at a time, in processes that share the cores and the GPUs; what each learns does not depend on it.
        quiet: print nothing.

    Raises:
        BadInput: with one sentence that says what is wrong and how to mend it.
    """
    reporter, folder = Reporter(quiet), Path(out)
    table, given = rows_of(rows), dict(settings or {})
    if updates is not None and seconds is not None:
        raise BadInput("give updates or seconds, not both: they are two ways to be fair.")
    if not seeds:
        raise BadInput("give at least one seed.")
    if seconds is not None and jobs > 1:
        raise BadInput("runs at the same time slow each other down; give updates instead of seconds, or one job.")
    for name, number in (("jobs", jobs), ("measure", measure)):
        if number is not None and number < 1:
            raise BadInput(f"{name} {number}: give at least one.")
    chains = [Chain.of(name, given) for name in dict.fromkeys(refine)]
    for chain in chains:
        if chain.spreads:
            check_cells(load_encoder(chain.encoder).grid, chain.encoder.side, chain.settings.steps)
    for number, row in enumerate(table):
        settled = resolve(row.recipe, known_settings(row.recipe, given) | row.settings)
        if jobs > 1 and settled.processes > 1:
            raise BadInput(f"row '{row.name}': every job has one GPU; set processes=1, or give one job.")
        twin = next((other.name for other in table[:number] if _slug(other.name) == _slug(row.name)), None)
        if twin is not None:
            raise BadInput(f"rows '{twin}' and '{row.name}' would lie in one folder; name them apart.")
    tags, masks = given.pop("data.tags", "xml"), given.pop("data.masks", None)
    photographs = photographs_of(data, folder, tags=tags, masks=masks)
    dataset, facts = _inspected(photographs, reporter)
    _begin(folder, dataset, facts.digest(dataset.train))
    truth = facts.stamps_digest(tuple(_samples(dataset, measure)))
    features = _features(chains, dataset, folder, reporter)
    place = None if features is None else features.folder
    tasks: list[_Task] = []
    machine = machine_in_words() + (f", {jobs} runs at a time" if jobs > 1 else "")
    for row in table:
        chosen = _budget(row, known_settings(row.recipe, given) | row.settings, dataset, folder, updates, seconds)
        for seed in seeds:
            run = folder / RUNS / _slug(row.name) / f"seed{seed}"
            own = {**chosen, "seed": seed}
            tasks.append(_Task(row, own, run, dataset, truth, chains, place, measure, machine, quiet or jobs > 1))
    found = _all(tasks, jobs, reporter)
    comparison = Comparison(
        data=dataset.root.resolve().name,
        photographs=len(dataset.train),
        measured=len(_samples(dataset, measure)),
        classes=dataset.classes,
        seeds=tuple(seeds),
        budget=_words(updates, seconds),
        chains=tuple(chain.name for chain in chains),
        runs=found,
    )
    looked_at = _samples(dataset, min(measure or RANKED, RANKED))
    comparison.write(folder, lambda: _gallery(table, seeds[0], dataset, looked_at, folder, chains[-1], features))
    return comparison


def _all(tasks: Sequence[_Task], jobs: int, reporter: Reporter) -> tuple[Measured, ...]:
    """What the runs lead to, in their order."""
    if jobs == 1:
        found = []
        for task in tasks:
            reporter.say(f"{task.row.name}, seed {task.settings['seed']}")
            _begin_run(task)
            found.append(_finish(task))
        return tuple(found)
    for task in tasks:
        _begin_run(task)
        if _resolved(task).train.frozen:  # features that others will want too are made before there are others
            _fit(task, until="frozen")
    done: dict[int, Measured] = {}
    for number, measured in in_processes(_finish, tasks, jobs):
        done[number] = measured
        reporter.say(f"{measured.row}, seed {measured.seed}: {len(done)} of {len(tasks)} runs")
    return tuple(done[number] for number in range(len(tasks)))


def _resolved(task: _Task) -> FitSettings:
    return resolve(task.row.recipe, task.settings)


def _fit(task: _Task, until: str) -> None:
    own = {**task.settings, **MAPS_ONLY}
    fit(task.data, task.run, recipe=task.row.recipe, settings=own, until=until, quiet=task.quiet)


def _finish(task: _Task) -> Measured:
    """Trains what is not trained yet and measures what is not measured yet, in this or another process."""
    _fit(task, until="premise")
    return _measured(task, None if task.features is None else FeatureStore(task.features), Reporter(task.quiet))


def rows_of(rows: str | os.PathLike[str] | Sequence[str] | Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[Row]:
    """Returns the rows of a table as `compare` takes them.

    Raises:
        BadInput: there is no such file, or it does not say rows.
    """
    if isinstance(rows, Mapping):
        return [Row(name, recipe, dict(values)) for name, (recipe, values) in rows.items()]
    if not isinstance(rows, str | os.PathLike):
        return [Row(name, name, {}) for name in dict.fromkeys(rows)]
    path = Path(rows)
    source: Any = path if path.suffix in (".yaml", ".yml") else _ROWS / f"{rows}.yaml"
    if not source.is_file():
        known = sorted(f.name[:-5] for f in _ROWS.iterdir() if f.name.endswith(".yaml"))
        raise BadInput(f"rows '{rows}': there is no such table{nearest(str(rows), known) or '.'} Known: {known}.")
    try:
        values = parse_yaml(source.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BadInput(f"{rows}: these rows are not valid YAML ({yaml_fault(error)}).") from error
    found = []
    for name, value in (values if isinstance(values, dict) else {}).items():
        own = dict(value) if isinstance(value, dict) else {"recipe": value}
        recipe = own.pop("recipe", None)
        if not isinstance(recipe, str):
            raise BadInput(f"{rows}: row '{name}' names no recipe; write 'recipe: METHOD' in it.")
        found.append(Row(str(name), recipe, own))
    if not found:
        raise BadInput(f"{rows}: there are no rows; write NAME: METHOD, or NAME: with 'recipe: METHOD' and settings.")
    return found


def _inspected(data: Dataset, reporter: Reporter) -> tuple[Dataset, FileFacts]:
    """The data set, and what is known of its files."""
    with reporter.bar("check", len(data.samples), "photographs") as advance:
        data, facts = inspect_files(data, FileFacts(), advance, threads=cpu_count())
    raise_problems(data.problems, data.root)
    if not any(sample.mask is not None for sample in data.train):
        raise BadInput(f"{data.root}: no training photograph has a mask, so that there is nothing to compare by.")
    return data, facts


def _begin(folder: Path, data: Dataset, digest: str) -> None:
    marker = folder / MARKER
    told = {"format": 1, "data": data.root.resolve().name, "digest": digest}
    if marker.exists():
        if read_json(marker) != told:
            raise BadInput(f"{folder}: this is a comparison on other data; choose another --out.")
    elif folder.exists() and any(folder.iterdir()):
        raise BadInput(f"{folder}: this folder holds something else; choose another --out (nothing was changed).")
    make_folder(folder)
    write_json(marker, told)


def _features(chains: Sequence[Chain], data: Dataset, folder: Path, reporter: Reporter) -> FeatureStore | None:
    """The frozen encoder's features, once for all rows, where a chain spreads along them."""
    encoder = next((chain.encoder for chain in chains if chain.spreads), None)
    if encoder is None:
        return None
    place = folder / FEATURES
    told = {**encoder.model_dump(mode="json"), "weights": weights_digest(encoder.weights)}
    if (place / "encoder.json").exists() and read_json(place / "encoder.json") != told:
        shutil.rmtree(place)
    make_folder(place)
    write_json(place / "encoder.json", told)
    return store_features(partial(load_encoder, encoder), data.train, place, "features", reporter, CacheSettings())


def _budget(
    row: Row, settings: dict[str, Any], data: Dataset, folder: Path, updates: int | None, seconds: float | None
) -> dict[str, Any]:
    """The row's settings with as many epochs as it may have; what was timed once is not timed again."""
    if updates is not None:
        return for_updates(row.recipe, settings, len(data.train), updates)
    if seconds is None:
        return settings
    path = folder / RUNS / _slug(row.name) / "budget.json"
    told = {"recipe": row.recipe, "settings": {k: str(v) for k, v in settings.items()}, "seconds": seconds}
    if path.exists() and (known := read_json(path))["of"] == told:
        return {**settings, **known["epochs"]}
    found = for_seconds(row.recipe, settings, data, seconds)
    make_folder(path.parent)
    epochs = {key: value for key, value in found.items() if key.endswith("epochs")}
    write_json(path, {"of": told, "epochs": epochs})
    return found


def _begin_run(task: _Task) -> None:
    """Gives a run that is not begun what another one found: of the files, and the features of a frozen network.

    `fit` says whether they fit, and makes them anew where they do not.
    """
    run, settings, runs = task.run, _resolved(task), task.run.parent.parent
    others = sorted(runs.glob(f"*/seed*/{FILES}"))
    if run.exists() or not others:
        return
    run.mkdir(parents=True)
    for name in (RUN_MARKER, FILES):
        shutil.copy(others[0].with_name(name), run / name)
    if not settings.train.frozen:
        return
    kind = load_method(settings.method)
    name = kind.features_as or kind.trained_as or settings.method
    for other in sorted(runs.glob("*/seed*/frozen/stage.json")):
        inputs = read_json(other)["inputs"]
        same = inputs["method"] == name and inputs["backbone"] == settings.backbone
        if same and inputs["settings"]["side"] == settings.train.side:
            shutil.copytree(other.parent, run / "frozen", copy_function=_linked)
            return


def _samples(data: Dataset, measure: int | None) -> list[Sample]:
    """The training photographs that masks are measured on."""
    known = [s for s in data.train if s.mask is not None]
    return at_even_steps(known, measure or len(known))


def _linked(source: str, target: str) -> None:
    """Gives a file that is never changed, but only replaced, a second name; a copy where the disk has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _measured(task: _Task, features: FeatureStore | None, reporter: Reporter) -> Measured:
    """The numbers of a run; those that were measured before are kept as long as its maps are the same."""
    chosen, path = _resolved(task), task.run / "compare.json"
    stage = read_json(task.run / "premise" / "stage.json")
    told = read_json(path) if path.exists() else {}
    if told.get("maps") != stage["inputs"]:
        # photographs may have been copied, and the training, whose seconds are told, be that of another machine
        trained = told.get("maps", {}).get(f"{AFTER}mine") == stage["inputs"][f"{AFTER}mine"]
        told = {"maps": stage["inputs"], "machine": told.get("machine", task.machine) if trained else task.machine}
    told.setdefault("machine", "unknown")  # of a comparison that was begun before this was kept
    by = {"measure": task.measure, "truth": task.truth}
    if any(told.get(key) != value for key, value in by.items()) or "numbers" not in told:
        told["numbers"] = {}
    told |= by
    store, scores = MapStore(task.run / "mine"), dict[str, float]()
    samples = _samples(task.data, task.measure)
    for chain in task.chains:
        if "recall" not in told["numbers"].get(chain.key, {}):  # recall came later than the other numbers
            if chain.cut_by not in scores:
                scores[chain.cut_by] = chain.background(store, task.data, features)
            with reporter.bar(chain.name, len(samples), "photographs") as advance:
                found = chain.measure(store, samples, task.data.classes, scores[chain.cut_by], features, advance)
            told["numbers"][chain.key] = found.model_dump(mode="json")
            write_json(path, told)
    networks = ("train",) if chosen.train.successor is None else ("train", "integral")
    trained = [task.run / name / "stage.json" for name in networks]
    epochs = read_json(trained[0])["values"]["epochs"] if trained[0].exists() else []
    return Measured(
        row=task.row.name,
        recipe=task.row.recipe,
        settings={key: value for key, value in task.settings.items() if key != "seed"},
        seed=chosen.seed,
        updates=updates_of(chosen.train, len(task.data.train), len(epochs) or None),
        seconds=sum(float(read_json(p)["seconds"]) for p in trained if p.exists()),
        machine=told["machine"],
        prior=prior_in_words(chosen, task.data),
        premise=stage["values"],
        numbers={chain.name: Numbers.model_validate(told["numbers"][chain.key]) for chain in task.chains},
    )


def _gallery(
    rows: Sequence[Row],
    seed: int,
    data: Dataset,
    looked_at: Sequence[Sample],
    folder: Path,
    chain: Chain,
    features: FeatureStore | None,
) -> tuple[list[str], list[tuple[Sample, list[np.ndarray]]]]:
    """Masks of every row of photographs by a rule: ordered by the IoU of the first row, at even steps."""
    masks = []
    for row in rows:
        store = MapStore(folder / RUNS / _slug(row.name) / f"seed{seed}" / "mine")
        masks.append((store, chain.background(store, data, features)))
    tagged = [s for s in looked_at if s.tags]
    scored = sorted(tagged, key=lambda s: chain.iou(*masks[0], s, features))
    chosen = [scored[round(place * (len(scored) - 1))] for place in np.linspace(0.02, 0.98, min(6, len(scored)))]
    lines = [(s, [chain.mask(store, score, s, features) for store, score in masks]) for s in chosen]
    return [row.name for row in rows], lines


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "+-" else "_" for c in name)


def _words(updates: int | None, seconds: float | None) -> str:
    if updates is not None:
        return f"{updates} updates each"
    return "as their recipes say" if seconds is None else f"{seconds:.0f} seconds of training each"
