"""The one exception that a person may see without a traceback."""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_BRIEF = 160  # characters


class BadInput(Exception):
    """What is wrong, where, and how to mend it, in one sentence. The command line prints it and exits with 2."""

    def __init__(self, sentence: str) -> None:
        super().__init__(visible(sentence))


def visible(text: str) -> str:
    """Returns a text in one line that any terminal can show.

    Names of files may hold line breaks, and bytes that are no letters; they are written as Python writes them.
    """
    if text.isprintable():
        return text
    return "".join(repr(sign)[1:-1] if unicodedata.category(sign) in ("Cc", "Cs") else sign for sign in text)


def nearest(name: str, known: list[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the known name closest to `name` (case aside), or an empty string."""
    folded = {k.casefold(): k for k in known}
    close = get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return f"; did you mean '{folded[close[0]]}'?" if close else ""


def brief(error: BaseException) -> str:
    """Returns what an error of a library says, as a part of one sentence: one line of at most 160 characters."""
    said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return said if len(said) <= _BRIEF else said[: _BRIEF - 4] + " ..."


def is_full(error: BaseException) -> bool:
    """Returns whether an error says that the disk is full; safetensors and torch have their own."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def unwritable(where: object, error: BaseException) -> BadInput:
    """Returns the sentence for a file or folder that cannot be written."""
    if is_full(error):
        return BadInput(
            f"{where}: the disk is full; free some space and run the same command again, "
            "it goes on from the last completed piece of work."
        )
    return BadInput(
        f"{where}: this cannot be written ({getattr(error, 'strerror', None) or brief(error)}); choose another place."
    )


@contextmanager
def explain_full_disk(where: object) -> Iterator[None]:
    """Turn the operating system's "no space left" into a sentence that says what is safe and what to do."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise unwritable(where, error) from error
