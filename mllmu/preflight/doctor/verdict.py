"""The outcome of one check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

Level = Literal["ok", "note", "FAULT"]
NUM_NAMED = 3
"""Cases that a verdict names; the rest are counted."""


class Verdict(NamedTuple):
    """One line of the doctor: ``note`` is a deliberate deviation from the paper or from good practice."""

    check: str
    level: Level
    text: str


def verdict(check: str, found: Sequence[str], fine: str, *, level: Level = "FAULT") -> Verdict:
    """``ok`` with what was looked at if nothing was found, else the level with the first cases."""
    return Verdict(check, level, listed(found)) if found else Verdict(check, "ok", fine)


def listed(items: Sequence[str]) -> str:
    """The first items in a line, and how many more there are.

    >>> listed(["a", "b", "c", "d"])
    'a; b; c; and 1 more'
    """
    more = [f"and {len(items) - NUM_NAMED} more"] if len(items) > NUM_NAMED else []
    return "; ".join([*items[:NUM_NAMED], *more])
