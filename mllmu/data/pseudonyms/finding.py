"""Finds what identifies people in a text: known originals word by word, and by their form addresses, numbers and names.

Known originals are found whatever the case, the accents, and the marks between the words. Telephone numbers are found
by ``phonenumbers``, the library that Presidio uses for them too. Presidio itself is not used: without a downloaded
language model it finds no names, and its e-mail recogniser asks a server of the public suffix list over the network
(tried with 2.2.366), which an audit of private data must not do.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from mllmu.core.errors import needs_extra
from mllmu.data.values import GENDERS, given_names, pools

_WORD = re.compile(r"[^\W_]+")
MAX_GAP = 3
"""Characters that may stand between two words of one original: "Smith,  Anna"."""
_EMAIL = re.compile(r"[\w.+%-]{1,64}@[\w-]+(?:\.[\w-]+)+")
_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"']+[^\s<>\"'.,;:!?)]", re.IGNORECASE)
_HANDLE = re.compile(r"(?<![\w@.])@[^\W\d][\w.]{2,40}\b")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z\d]{4}){2,7}(?: ?[A-Z\d]{1,4})?\b")
_ACCOUNT = re.compile(r"(?<![\w$€£.,+])\d(?:[ ./-]?\d){12,}(?![\w]|[.,]\d)")
_LONG_NUMBER = re.compile(r"(?<![\w$€£.,])\d(?:[ ./-]?\d){6,}(?![\w]|[.,]\d)")
_MIXED = re.compile(
    r"\b(?=[A-Za-z\d/_-]*\d[A-Za-z/_-]*\d[A-Za-z/_-]*\d)(?:[A-Z]{1,5}[-_/ ]?\d[A-Z\d/_-]{2,}(?: \d{2,4})*)\b"
)
_TITLE = r"(?:Dr|Mr|Mrs|Ms|Prof|Professor|Sir|Madam|Herr|Frau|Monsieur|Madame|Señor|Señora)\.?"
_KIN = r"(?:wife|husband|partner|brother|sister|son|daughter|mother|father|friend|colleague|boss|neighbou?r|uncle|aunt)"
_CAPITAL = r"[A-ZÀ-ÖØ-Þ][a-zß-öø-ÿĀ-ž]+(?:[-'’][^\W\d_]+)?"
_AFTER = re.compile(rf"(?:\b{_TITLE}|\b{_KIN},?)\s+({_CAPITAL}(?:\s+{_CAPITAL}){{0,2}})")
_PAIR = re.compile(rf"\b({_CAPITAL})(\s+{_CAPITAL}){{1,2}}")


class Word(NamedTuple):
    """A word of a text: compared by ``plain``, cut out by its position."""

    plain: str
    start: int
    end: int


class Hit(NamedTuple):
    """A part of a text, and the fake that replaces it."""

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
        found, first = words(text), 0
        while first < len(found):
            entries = self._by_first.get(found[first].plain, ())
            fitting = [e for e in entries if _fits(e, found[first : first + len(e.words)], text, owner)]
            entry = max(fitting, key=lambda e: (len(e.words), e.owner == owner, e.fake), default=None)
            if entry is None:
                first += 1
                continue
            start, end = found[first].start, found[first + len(entry.words) - 1].end
            start -= entry.kind == "phone" and text[start - 1 : start] in ("+", "(")
            yield Hit(start, end, entry.kind, entry.fake)
            first += len(entry.words)


def _fits(entry: _Entry, part: list[Word], text: str, owner: str) -> bool:
    if tuple(word.plain for word in part) != entry.words:
        return False
    if any(b.start - a.end > MAX_GAP for a, b in pairwise(part)):
        return False
    return entry.loose or entry.owner == owner or not text[part[0].start].islower()


class Match(NamedTuple):
    """An identifier in a text; ``key`` is the same however the original is written."""

    start: int
    end: int
    kind: str
    key: str


NET = (("email", _EMAIL), ("url", _URL), ("handle", _HANDLE))
"""E-mail addresses, addresses of pages, and handles such as @anna."""
ACCOUNTS = (("number", _IBAN), ("number", _ACCOUNT))
"""International account numbers and numbers of 13 digits or more (cards), which are too long for a telephone."""
NUMBERS = (("number", _LONG_NUMBER), ("number", _MIXED))
"""Numbers of seven digits or more (insurance ...) and codes of letters and digits (staff, passport)."""


def by_form(text: str, forms: Iterable[tuple[str, re.Pattern[str]]]) -> Iterator[Match]:
    """Identifiers of some kinds, one kind after the other."""
    for kind, pattern in forms:
        for m in pattern.finditer(text):
            original = re.sub(r"[\s./_-]", "", m[0]) if kind == "number" else m[0]
            yield Match(m.start(), m.end(), kind, original.casefold())


def phones(text: str, region: str) -> Iterator[Match]:
    """Telephone numbers as written anywhere, or as written inside one region ('US', 'DE' ...)."""
    with needs_extra("data.source: finding telephone numbers", "people"):
        import phonenumbers as library
    for found in library.PhoneNumberMatcher(text, region, leniency=library.Leniency.POSSIBLE):
        digits = sum(char.isdecimal() for char in found.raw_string)
        if digits >= 7 and "," not in found.raw_string:
            key = library.format_number(found.number, library.PhoneNumberFormat.E164)
            yield Match(found.start, found.end, "phone", key)


def phone_key(cell: str, region: str) -> str:
    """The one form of a telephone number of the table."""
    return next((match.key for match in phones(cell, region)), "".join(c for c in cell if c.isdecimal()))


def others(text: str) -> Iterator[Match]:
    """Names of people who are not in the table: behind a title or a word of kinship, or a usual given name and another.

    This is a guess by form. A name that is neither, such as a rare given name alone, is not found.
    """
    for m in _AFTER.finditer(text):
        yield Match(m.start(1), m.end(1), "name", m[1].casefold())
    for m in _PAIR.finditer(text):
        if m[1].casefold() in _usual_given_names():
            yield Match(m.start(), m.end(), "name", m[0].casefold())


@cache
def _usual_given_names() -> frozenset[str]:
    """Given names of all locales of the invented people."""
    locales = {city.locale for city in pools().cities}
    return frozenset(
        name.casefold() for locale in locales for gender in GENDERS for name in given_names(locale, gender)
    )
