"""The one exception that a person may see without a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class BadInput(Exception):
    """What is wrong, where, and how to mend it, in one sentence. The command line prints it and exits with 2."""


def nearest(name: str, known: list[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the known name closest to `name` (case aside), or an empty string."""
    folded = {k.casefold(): k for k in known}
    close = get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    return f"; did you mean '{folded[close[0]]}'?" if close else ""


def is_full(error: BaseException) -> bool:
    """Returns whether an error says that the disk is full; safetensors and torch have their own."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)


def unwritable(where: object, error: OSError) -> BadInput:
    """Returns the sentence for a file or folder that cannot be written."""
    return BadInput(f"{where}: this cannot be written ({error.strerror or error}); choose another place.")


@contextmanager
def explain_full_disk(where: object) -> Iterator[None]:
    """Turn the operating system's "no space left" into a sentence that says what is safe and what to do."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise BadInput(
            f"{where}: the disk is full; free some space and run the same command again, "
            "it goes on from the last completed piece of work."
        ) from error
