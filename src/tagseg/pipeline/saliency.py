"""Saliency maps for a run: those of the data set, made on the spot, or by a network from a file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tagseg.cores import cpu_count, prefetch
from tagseg.data.dataset import Dataset, MaskFolder, Sample
from tagseg.data.images import read_image, write_grey
from tagseg.errors import BadInput, nearest
from tagseg.masks.saliency import load_saliency_network, minimum_barrier_saliency
from tagseg.pipeline.masking import make_missing
from tagseg.pipeline.parts import Part, in_parts
from tagseg.progress import Advance, Reporter

SALIENCY_WORDS = ("auto", "folder", "built-in")


def find_source(source: str) -> str:
    """Returns the source if it is a word, a folder of maps, or the path of a network's file.

    Raises:
        BadInput: it is none of them.
    """
    if source in SALIENCY_WORDS or Path(source).exists():
        return source
    hint = nearest(source, list(SALIENCY_WORDS)) or "."
    words = ", ".join(SALIENCY_WORDS)
    raise BadInput(
        f"data.saliency '{source}' is no file, no folder and no word{hint} Give {words}, a folder or a file."
    )


def from_folder(data: Dataset, source: str) -> Dataset:
    """Returns the data with the maps that lie in `source`, if that is a folder: `NAME.png` for the photograph NAME.

    Raises:
        BadInput: a photograph has no map there.
    """
    folder = Path(source)
    if source in SALIENCY_WORDS or not folder.is_dir():
        return data
    missing = [s.name for s in data.train if not (folder / f"{s.name}.png").exists()]
    if missing:
        raise BadInput(
            f"{folder}: there is no saliency map {missing[0]}.png ({len(missing) - 1} more are missing); add it, or "
            "set data.saliency=auto."
        )
    return replace(data, train=tuple(replace(s, saliency=folder / f"{s.name}.png") for s in data.train))


def maps_digest(samples: tuple[Sample, ...], source: str) -> str:
    """Changes with what the maps are made from: the data set's own files, or the network."""
    if source == "built-in":
        return source
    from_file = Path(source).is_file() and source not in SALIENCY_WORDS
    files = [Path(source)] if from_file else [s.saliency for s in samples if s.saliency is not None]
    stamps = [f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files]
    return hashlib.blake2b("\n".join(stamps).encode(), digest_size=16).hexdigest()


def with_saliency(samples: tuple[Sample, ...], source: str, folder: Path) -> tuple[Sample, ...]:
    """Returns the samples with the saliency maps that `make_saliency` left for them."""
    return tuple(s if has_own_map(s, source) else replace(s, saliency=folder / f"{s.name}.png") for s in samples)


def make_saliency(
    samples: tuple[Sample, ...],
    source: str,
    folder: Path,
    reporter: Reporter,
    *,
    program: bool = False,
    processes: int = 1,
) -> int:
    """Writes the maps that are missing; returns how many were made in all.

    Args:
        samples: the photographs.
        source: as `data.saliency`.
        folder: for the maps.
        reporter: shows the bar.
        program: whether the file of a network may be a program.
        processes: that share the work.

    Raises:
        BadInput: the source is the data set's folder, and it has no map of some photograph; or the network's file
            cannot be used.
    """
    wanted = [s for s in samples if not has_own_map(s, source)]
    if wanted and source == "folder":
        raise BadInput(
            f"{wanted[0].name}: the data set has no saliency map of it ({len(wanted) - 1} more are missing); add "
            f"saliency/{wanted[0].name}.png, or set data.saliency=auto."
        )
    if not wanted:
        return 0
    work = partial(_saliency_part, tuple(wanted), source, program, MaskFolder(folder))
    with reporter.bar("saliency", len(wanted), "photographs") as advance:
        in_parts(work, len(wanted), processes, folder, advance)
    return len(wanted)


def _saliency_part(
    samples: tuple[Sample, ...], source: str, program: bool, place: MaskFolder, *, part: Part, advance: Advance
) -> None:
    built_in = source in SALIENCY_WORDS
    network = minimum_barrier_saliency if built_in else load_saliency_network(Path(source), program=program)

    def work(sample: Sample) -> None:
        write_grey(place(sample), np.round(255 * network(read_image(sample.image))).astype(np.uint8))

    # a network brings its own threads
    threads = cpu_count() if built_in else 1
    make_missing(place, samples, partial(prefetch, work, threads=threads), part, advance)


def has_own_map(sample: Sample, source: str) -> bool:
    """Tells whether the map of a photograph is the data set's, or its folder's, and is not made."""
    return sample.saliency is not None and (source in ("auto", "folder") or Path(source).is_dir())
