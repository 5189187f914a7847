"""Finds known originals in text word by word: whatever the case, the accents, and the marks between the words."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+")
MAX_GAP = 3
"""Characters that may stand between two words of one original: "Smith,  Anna"."""


class Word(NamedTuple):
    """A word of a text: compared by ``plain``, cut out by its place."""

    plain: str
    start: int
    end: int


class Hit(NamedTuple):
    """A place in a text and what comes there."""

    start: int
    end: int
    kind: str
    fake: str


class _Entry(NamedTuple):
    words: tuple[str, ...]
    kind: str
    fake: str
    owner: str
    loose: bool


def plain(text: str) -> str:
    """Lower case without accents, for comparison.

    >>> plain("Élodie")
    'elodie'
    """
    folded = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return folded.casefold().translate({0x142: "l", 0xF8: "o", 0x131: "i", 0x111: "d"})


def words(text: str) -> list[Word]:
    """The words of a text, letters and digits only; an underscore separates like a space."""
    return [Word(plain(m[0]), m.start(), m.end()) for m in _WORD.finditer(text)]


class Lexicon:
    """Everything that is known to be original, and its fakes."""

    def __init__(self) -> None:
        self._by_first: dict[str, list[_Entry]] = defaultdict(list)

    def add(self, original: str, kind: str, fake: str, *, owner: str = "", loose: bool = True) -> None:
        """Learn one original.

        Args:
            owner: person in whose text the entry comes before the same entry of others.
            loose: found in any case; otherwise only with a capital letter, except in the owner's own text, because
                "Young" is a name and "young" is none.
        """
        found = tuple(word.plain for word in words(original))
        if found and (len(found) > 1 or len(found[0]) > 1):
            self._by_first[found[0]].append(_Entry(found, kind, fake, owner, loose))

    def find(self, text: str, owner: str) -> Iterator[Hit]:
        """Originals in a text from left to right, the longest first; they never overlap."""
        found, place = words(text), 0
        while place < len(found):
            entry = self._best(found, place, text, owner)
            if entry is None:
                place += 1
                continue
            last = found[place + len(entry.words) - 1]
            start = found[place].start
            start -= entry.kind == "phone" and text[start - 1 : start] in ("+", "(")
            yield Hit(start, last.end, entry.kind, entry.fake)
            place += len(entry.words)

    def _best(self, found: list[Word], place: int, text: str, owner: str) -> _Entry | None:
        fitting = [e for e in self._by_first.get(found[place].plain, ()) if _fits(e, found, place, text, owner)]
        return max(fitting, key=lambda e: (len(e.words), e.owner == owner, e.fake), default=None)


def _fits(entry: _Entry, found: list[Word], place: int, text: str, owner: str) -> bool:
    part = found[place : place + len(entry.words)]
    if tuple(word.plain for word in part) != entry.words:
        return False
    if any(b.start - a.end > MAX_GAP for a, b in pairwise(part)):
        return False
    return entry.loose or entry.owner == owner or not text[part[0].start].islower()
