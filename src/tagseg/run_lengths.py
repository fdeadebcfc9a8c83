"""Run lengths of masks as COCO writes them: column by column, first those of 0, then in turn.

Source: the format of pycocotools, whose text keeps 5 bits a character of a number's difference to the one two before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def encode_runs(mask: np.ndarray) -> dict[str, Any]:
    """Returns the run lengths of a mask as COCO's compressed text.

    Args:
        mask: `(H, W)` bool.

    Returns:
        `size`, which is `[H, W]`, and `counts`, ASCII text.
    """
    return {"size": [int(n) for n in mask.shape], "counts": _text(runs_of(mask))}


def runs_of(mask: np.ndarray) -> list[int]:
    """Returns the run lengths of a mask, `(H, W)` bool, as numbers: of 0 first (there may be none), then in turn."""
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    if not flat.size:
        return []
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def decode_runs(lengths: dict[str, Any]) -> np.ndarray:
    """Returns the mask of COCO's run lengths, numbers or compressed text, as `(H, W)` bool.

    Raises:
        ValueError: they are not of as many pixels as their size says.
    """
    height, width = lengths["size"]
    counts = lengths["counts"]
    runs = numbers_of(counts) if isinstance(counts, str) else [int(n) for n in counts]
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise ValueError(f"run lengths of {sum(runs)} pixels for {width} x {height}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _text(numbers: Sequence[int]) -> str:
    """Five bits a character, lowest first, the sixth bit where more follow; from the fourth number on differences."""
    characters = []
    for place, number in enumerate(numbers):
        value = number - numbers[place - 2] if place > 2 else number
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != (-1 if bits & 0x10 else 0)
            characters.append(chr(48 + (bits | 0x20 if more else bits)))
    return "".join(characters)


def numbers_of(text: str) -> list[int]:
    """Returns the run lengths in COCO's compressed text, which may be damaged, as numbers."""
    numbers: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value, shift = 0, 0
    return numbers
