"""Harm that is done on purpose, by commands; `test_short` has a little of each."""

import sys
from collections.abc import Sequence


def tell(what: str, tried: int, wrong: Sequence[str]) -> None:
    """Prints how many were tried and what is wrong, and ends with 1 if something is."""
    print(f"{what}: {tried} tried, {tried - len(wrong)} clean, {len(wrong)} wrong")
    for words in wrong:
        print(f"  {words}")
    sys.exit(bool(wrong))
