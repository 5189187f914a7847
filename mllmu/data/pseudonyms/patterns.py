"""Finds what identifies somebody by its form: addresses of the net, telephone numbers, long numbers, names of others.

Telephone numbers are found by ``phonenumbers``, the library that Presidio uses for them too. Presidio itself is not
used: without a downloaded language model it finds no names, and its e-mail recogniser asks a server of the public
suffix list over the network (tried with 2.2.366), which an audit of private data must not do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from mllmu.core.errors import needs_extra
from mllmu.data.values import GENDERS, given_names, pools

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


class Match(NamedTuple):
    """A place in a text; ``key`` is the same however the original is written."""

    start: int
    end: int
    kind: str
    key: str


def net(text: str) -> Iterator[Match]:
    """E-mail addresses, addresses of pages, and handles such as @anna."""
    for kind, pattern in (("email", _EMAIL), ("url", _URL), ("handle", _HANDLE)):
        yield from (Match(m.start(), m.end(), kind, m[0].casefold()) for m in pattern.finditer(text))


def phones(text: str, region: str) -> Iterator[Match]:
    """Telephone numbers as written anywhere, or as written inside one region ('US', 'DE' ...)."""
    library = phone_library()
    for found in library.PhoneNumberMatcher(text, region, leniency=library.Leniency.POSSIBLE):
        digits = sum(char.isdecimal() for char in found.raw_string)
        if digits >= 7 and "," not in found.raw_string:
            key = library.format_number(found.number, library.PhoneNumberFormat.E164)
            yield Match(found.start, found.end, "phone", key)


def phone_key(cell: str, region: str) -> str:
    """The one form of a telephone number of the table."""
    return next((match.key for match in phones(cell, region)), "".join(c for c in cell if c.isdecimal()))


def accounts(text: str) -> Iterator[Match]:
    """International account numbers and numbers of 13 digits or more (cards), which are too long for a telephone."""
    yield from _codes(text, _IBAN, _ACCOUNT)


def numbers(text: str) -> Iterator[Match]:
    """Numbers of seven digits or more (insurance ...) and codes of letters and digits (staff, passport)."""
    yield from _codes(text, _LONG_NUMBER, _MIXED)


def _codes(text: str, *patterns: re.Pattern[str]) -> Iterator[Match]:
    for pattern in patterns:
        for m in pattern.finditer(text):
            yield Match(m.start(), m.end(), "number", re.sub(r"[\s./_-]", "", m[0]).casefold())


def others(text: str) -> Iterator[Match]:
    """Names of people who are not in the table: behind a title or a word of kinship, or a usual given name and another.

    This is a guess by form. A name that is neither, such as a rare given name alone, is not found.
    """
    for m in _AFTER.finditer(text):
        yield Match(m.start(1), m.end(1), "name", m[1].casefold())
    for m in _PAIR.finditer(text):
        if m[1].casefold() in _given():
            yield Match(m.start(), m.end(), "name", m[0].casefold())


@cache
def _given() -> frozenset[str]:
    """Given names of all locales of the invented people."""
    locales = {city.locale for city in pools().cities}
    return frozenset(
        name.casefold() for locale in locales for gender in GENDERS for name in given_names(locale, gender)
    )


def phone_library() -> Any:
    """``phonenumbers``, or a message that says how to get it."""
    with needs_extra("data.source: finding telephone numbers", "people"):
        import phonenumbers
    return phonenumbers
