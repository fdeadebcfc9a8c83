"""Class maps that grow while a classifier learns: one cumulative map for each tag of each photograph (OAA).

A *round* is one pass over the photographs. What is added in a round goes into a file of its own; at its end the round's
file is joined with everything before, and the whole is put beside the file of the round before. So a round that was
interrupted leaves no trace, whoever reads sees the maps as they were at the end of a round, and processes that see
different photographs only have to be joined. Where somebody asks for them, the maps of the last rounds alone are kept
beside the cumulative ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from tagseg.data.geometry import Window, paste
from tagseg.errors import BadInput
from tagseg.files import make_folder, read_json, write_aside, write_json
from tagseg.grid import Grid

Fusion = Literal["max", "average"]

ROOM = 1 << 30  # bytes for the maps of all rounds; when they take more, the oldest go
GEOMETRY = "geometry.json"  # says what the maps are of, so that no network is needed to read them
_BLOCK = 1 << 24  # cells that are joined at a time
_MEAN = np.dtype([("mean", "<f2"), ("count", "<u2")])


class Accumulator:
    """Cumulative maps in memory-mapped files: a byte for every cell, or four bytes for running averages.

    Args:
        folder: where the files lie; processes that share it work together.
        classes: of every photograph its tags, 0-based.
        cells: of every photograph the `(h, w)` of its maps.
        grid: the geometry of the network and of the maps alike.
        fusion: the largest value that a cell ever had, or the mean of all (thesis chapter 4).
        own: whether the maps of the last two rounds alone are kept too (see `own_maps`).
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[tuple[int, ...]],
        cells: Sequence[tuple[int, int]],
        grid: Grid,
        fusion: Fusion = "max",
        *,
        own: bool = False,
    ) -> None:
        self.folder, self.classes, self.cells = folder, tuple(classes), tuple(cells)
        self.grid, self.fusion, self.own = grid, fusion, own
        lengths = [len(c) * h * w for c, (h, w) in zip(self.classes, self.cells, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        self._kind = np.dtype(np.uint8) if fusion == "max" else _MEAN
        self._opened: dict[Path, np.ndarray] = {}
        self._working: np.ndarray | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": {}, "_working": None}  # another process opens its own

    @property
    def bytes(self) -> int:
        """Returns the bytes of one file of maps."""
        return int(self._starts[-1]) * self._kind.itemsize

    def path(self, rounds: int) -> Path:
        """Returns the file of the maps after that many rounds."""
        return self.folder / f"round-{rounds:03d}.npy"

    def own_path(self, rounds: int) -> Path:
        """Returns the file of the maps that the last of that many rounds alone made."""
        return self.folder / f"own-{rounds:03d}.npy"

    def rounds(self) -> list[int]:
        """Returns the numbers of rounds after which the maps are there."""
        return sorted(int(p.stem.removeprefix("round-")) for p in self.folder.glob("round-*.npy"))

    @classmethod
    def open(cls, folder: Path, classes: Sequence[tuple[int, ...]]) -> Accumulator:
        """Opens the cumulative maps that lie in a folder, of photographs with these tags.

        Raises:
            BadInput: there are none, or they are of other photographs.
        """
        try:
            told = read_json(folder / GEOMETRY)
            cells = [(int(height), int(width)) for height, width in told["cells"]]
            grid, fusion = Grid(int(told["stride"]), bool(told["corners"])), told["fusion"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{folder / GEOMETRY}: cumulative maps are not described here; train again.") from error
        if len(cells) != len(classes):
            raise BadInput(f"{folder}: these cumulative maps are of other photographs; train again.")
        return cls(folder, classes, cells, grid, fusion)

    def begin(self, rank: int = 0, rounds: int | None = None) -> None:
        """Begins a round with nothing added; every process has its own file.

        Args:
            rank: of the process.
            rounds: how many rounds are done; what is there of later ones, from a training that was begun anew, goes.
        """
        make_folder(self.folder)
        if rank == 0:
            for later in [r for r in self.rounds() if rounds is not None and r > rounds]:
                self._forget(later)
            told = {"stride": self.grid.stride, "corners": self.grid.corners, "fusion": self.fusion}
            write_json(self.folder / GEOMETRY, {**told, "cells": self.cells})
        path = self._working_path(rank)
        path.unlink(missing_ok=True)
        self._working = np.lib.format.open_memmap(path, mode="w+", dtype=self._kind, shape=(int(self._starts[-1]),))

    def add(self, index: int, position: int, raw: np.ndarray, window: Window) -> bool:
        """Adds what a view of photograph `index` shows of its tag number `position`.

        The map is carried to the photograph, rectified, and divided by its maximum there.

        Args:
            raw: `(h, w)` signed scores over the window.

        Returns:
            whether there was anything positive.
        """
        assert self._working is not None, "begin a round first"
        found, inside = paste(np.maximum(raw[None], 0), window, self.cells[index], self.grid)
        values = found[0]
        peak = float(values.max(initial=0))
        if peak <= 0:
            return False
        values /= peak
        cells = self._of(self._working, index)[position]
        if self.fusion == "max":
            np.maximum(cells, np.round(values * 255).astype(np.uint8), out=cells)
        else:
            count = cells["count"] + inside
            total = cells["mean"] * cells["count"].astype(np.float32) + np.where(inside, values, 0)
            cells["mean"], cells["count"] = total / np.maximum(count, 1), count
        return True

    def finish(self, rounds: int, ranks: int = 1) -> None:
        """Ends the round that makes `rounds`: joins what every process added with everything before.

        One process calls this, after all others have `flush`ed. The maps of older rounds stay, for whoever wants to see
        them grow, as far as there is `ROOM`; those of the round before always do.
        """
        self.flush()
        parts = [np.load(self._working_path(rank), mmap_mode="r") for rank in range(ranks)]
        if self.own:  # before the cumulative maps, whose file says that the round is done
            self._write(self.own_path(rounds), parts)
            self._remove(self.own_path(rounds - 2))
        if rounds > 1:
            parts.append(self._open(self.path(rounds - 1)))
        self._write(self.path(rounds), parts)
        kept = self.rounds()
        # oldest first, as many as are too many for `ROOM`, but never the last two
        for old in kept[: min(len(kept) - 2, max(0, len(kept) - ROOM // max(1, self.bytes)))]:
            self._forget(old)

    def flush(self) -> None:
        """Writes what this process added to its file."""
        if self._working is not None:
            self._working.flush()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Deletes the files of a round's own, none of which is needed after the last round."""
        self._working = None
        for path in self.folder.glob("working-*.npy"):
            path.unlink()

    def maps(self, index: int, rounds: int) -> np.ndarray:
        """Returns the maps of a photograph's tags after that many rounds: `(K, h, w)` float32 in [0, 1].

        They are 0 where nothing was ever added.

        Raises:
            BadInput: the file is not there, or is that of other photographs.
        """
        return self._read(self.path(rounds), index) if rounds else self._nothing(index)

    def own_maps(self, index: int, rounds: int) -> np.ndarray:
        """Returns the maps that the last of that many rounds alone made: `(K, h, w)` float32 in [0, 1].

        They are 0 for a tag that the classifier did not find in that round.

        Raises:
            BadInput: the file is not there, or is that of other photographs.
        """
        return self._read(self.own_path(rounds), index) if rounds else self._nothing(index)

    def has_map(self, index: int, position: int, rounds: int) -> bool:
        """Tells whether a tag has a map after that many rounds, or got one in the round that is going on."""
        if rounds and self._any(self._of(self._open(self.path(rounds)), index)[position]):
            return True
        return self._working is not None and self._any(self._of(self._working, index)[position])

    def _any(self, cells: np.ndarray) -> bool:
        return bool((cells if self.fusion == "max" else cells["count"]).any())

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        if self.fusion == "max":
            return np.maximum.reduce(parts)
        whole = np.empty(len(parts[0]), dtype=_MEAN)
        counts = [part["count"].astype(np.float32) for part in parts]
        count = np.sum(counts, axis=0)
        total = np.sum([part["mean"] * c for part, c in zip(parts, counts, strict=True)], axis=0)
        whole["mean"], whole["count"] = total / np.maximum(count, 1), np.minimum(count, 65535)
        return whole

    def _of(self, cells: np.ndarray, index: int) -> np.ndarray:
        own = cells[self._starts[index] : self._starts[index + 1]]
        return own.reshape(len(self.classes[index]), *self.cells[index])

    def _nothing(self, index: int) -> np.ndarray:
        return np.zeros((len(self.classes[index]), *self.cells[index]), dtype=np.float32)

    def _read(self, path: Path, index: int) -> np.ndarray:
        found = self._of(self._open(path), index)
        return found.astype(np.float32) / 255 if self.fusion == "max" else found["mean"].astype(np.float32)

    def _write(self, path: Path, parts: list[np.ndarray]) -> None:
        with write_aside(path) as aside:
            whole = np.lib.format.open_memmap(aside, mode="w+", dtype=self._kind, shape=(int(self._starts[-1]),))
            # block by block: the maps of all photographs need not fit into memory
            for start in range(0, len(whole), _BLOCK):
                block = slice(start, start + _BLOCK)
                whole[block] = self._joined([part[block] for part in parts])
            whole.flush()

    def _forget(self, rounds: int) -> None:
        for path in (self.path(rounds), self.own_path(rounds)):
            self._remove(path)

    def _remove(self, path: Path) -> None:
        self._opened.pop(path, None)  # else what it takes on the disk would stay taken
        path.unlink(missing_ok=True)

    def _open(self, path: Path) -> np.ndarray:
        if path not in self._opened:
            if not path.exists():
                raise BadInput(f"{path}: the cumulative maps of this round are missing; train again.")
            found = np.load(path, mmap_mode="r")
            if found.shape != (int(self._starts[-1]),) or found.dtype != self._kind:
                raise BadInput(f"{path}: these cumulative maps are of other photographs; train again.")
            self._opened[path] = found
        return self._opened[path]

    def _working_path(self, rank: int) -> Path:
        return self.folder / f"working-{rank}.npy"


def synchronised(barrier: Callable[[], object], accumulator: Accumulator, rounds: int, rank: int, ranks: int) -> None:
    """Ends a round that several processes worked on."""
    accumulator.flush()
    barrier()
    if rank == 0:
        accumulator.finish(rounds, ranks)
    barrier()
