"""The ids of a published data set: the same person in every table, also where one has lost the zeros in front."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from mllmu.core.records import ID_PATTERN

MAX_LENGTH = 64


def as_id(value: Any) -> str:
    """A cell of ids as text, empty if it is none; a column of numbers with a gap in it holds floats."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def usable_id(value: Any) -> str | None:
    """A published id as ours, or None if it cannot name a person."""
    text = as_id(value)
    return text if re.fullmatch(ID_PATTERN, text) else None


class PersonIds:
    """The ids of the people of a data set, which a table may hold as numbers: 17 is 017 where there is no other 17.

    >>> ids = PersonIds(["017", "18"])
    >>> ids.find(17), ids.find("018"), ids.find("19"), ids.restored
    ('017', '18', None, {'17': '017', '018': '18'})
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)
        self._by_number: defaultdict[int, list[str]] = defaultdict(list)
        self.restored: dict[str, str] = {}
        for person in self._known:
            if _is_number(person):
                self._by_number[int(person)].append(person)

    def find(self, value: Any) -> str | None:
        """The known id that a cell means: as it is written, or else the only one of the same number."""
        text = as_id(value)
        if text in self._known:
            return text
        same = self._by_number.get(int(text), []) if _is_number(text) else []
        if len(same) != 1:
            return None
        return self.restored.setdefault(text, same[0])

    def note(self, config: str) -> str:
        """What was found by its number alone, in words; empty if nothing was."""
        first = next(iter(self.restored.items()), None)
        if first is None:
            return ""
        return f"{config}: {len(self.restored)} ids differ in leading zeros, '{first[0]}' was read as '{first[1]}'"


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= MAX_LENGTH
