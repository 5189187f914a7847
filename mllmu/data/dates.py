"""Finds dates in text, however they are written, and moves them; the way of writing stays."""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from typing import Any, NamedTuple, TypeVar

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_MONTH = "|".join(f"{name}|{name[:3]}\\.?" for name in MONTHS)
_YEAR = r"(?:19|20)\d\d"
_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_NUMERIC = re.compile(r"\b(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})\b")
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})\b", re.IGNORECASE)
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th|\.)?(?:\s+of)?\s+({_MONTH})\s+(\d{{4}})\b", re.IGNORECASE)
_MONTH_YEAR = re.compile(rf"\b({_MONTH})\s+({_YEAR})\b", re.IGNORECASE)
_YEAR_ONLY = re.compile(rf"(?<![\w$€£.,/-])({_YEAR})(?![\w/-]|[.,]\d)")


class WrittenDate(NamedTuple):
    """A date in a text, and how to write another day in its place."""

    start: int
    end: int
    day: date
    write: Callable[[date], str]


S = TypeVar("S", bound=tuple[Any, ...])


def apart(spans: Iterable[S]) -> list[S]:
    """Spans (start, end, ...) that do not overlap, in the order of the text; of two that do, the first given counts."""
    taken: list[S] = []
    for span in spans:
        if all(span[1] <= start or span[0] >= end for start, end, *_ in taken):
            taken.append(span)
    return sorted(taken, key=lambda span: span[0])


def find(text: str) -> list[WrittenDate]:
    """All dates of a text in order, never overlapping; '14 May 1990' is one date and not also the year 1990."""
    written = ((match, day, write) for match, day, write in _all(text) if day)
    return apart(WrittenDate(match.start(), match.end(), day, write) for match, day, write in written)


def parse(text: str, *, day_first: bool | None = None) -> date | None:
    """The one day that a whole text stands for, or None; 03/04/1990 is one only if ``day_first`` says which.

    >>> parse("May 14, 1990"), parse("14.05.1990"), parse("03/04/1990")
    (datetime.date(1990, 5, 14), datetime.date(1990, 5, 14), None)
    """
    plain = text.strip()
    for pattern, order, _ in _FORMS:
        if match := pattern.fullmatch(plain):
            return _day(*(match[group] for group in order))
    match = _NUMERIC.fullmatch(plain)
    if not match or len(match[4]) != 4:
        return None
    if match[2] == ".":
        return _day(match[4], match[3], match[1])
    if day_first is None:
        return None
    return _day(match[4], match[3], match[1]) if day_first else _day(match[4], match[1], match[3])


def printed(day: date) -> str:
    """``May 14, 1990``, in English whatever the machine's locale."""
    return f"{MONTHS[day.month - 1]} {day.day}, {day.year}"


def moved(day: date, days: int) -> date:
    """A day so many days later; kept inside the calendar."""
    return day + timedelta(days=max(-day.toordinal() + 1, min(days, date.max.toordinal() - day.toordinal())))


def _day_month_year(day: date) -> str:
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


_FORMS = (
    (_ISO, (1, 2, 3), date.isoformat),
    (_MONTH_FIRST, (3, 1, 2), printed),
    (_DAY_FIRST, (3, 2, 1), _day_month_year),
)
"""Ways of writing a whole day, the groups of year, month and day, and how another day is written so."""


def _all(text: str) -> Iterator[tuple[re.Match[str], date | None, Callable[[date], str]]]:
    """Candidates, the most telling pattern first: place, day if there is one, and how another day is written."""
    for pattern, (year, month, day), write in _FORMS:
        for match in pattern.finditer(text):
            yield match, _day(match[year], match[month], match[day]), write
    for match in _NUMERIC.finditer(text):
        yield match, *_numeric(match)
    for match in _MONTH_YEAR.finditer(text):
        yield match, _day(match[2], match[1], "15"), lambda day: f"{MONTHS[day.month - 1]} {day.year}"
    for match in _YEAR_ONLY.finditer(text):
        yield match, _day(match[1], "7", "1"), lambda day: str(day.year)


def _numeric(match: re.Match[str]) -> tuple[date | None, Callable[[date], str]]:
    """14.05.1990 and 05/14/90; where both readings are days, the first number is taken for the day."""
    mark, year = match[2], match[4]
    full = year if len(year) == 4 else f"{'20' if int(year) < 30 else '19'}{year}"
    if day := _day(full, match[3], match[1]):
        return day, lambda d: f"{d.day:02d}{mark}{d.month:02d}{mark}{d.year}"
    return _day(full, match[1], match[3]), lambda d: f"{d.month:02d}{mark}{d.day:02d}{mark}{d.year}"


def _day(year: str, month: str, day: str) -> date | None:
    """A day by its printed parts, the month by number or name; None if the calendar has no such day."""
    try:
        return date(int(year), _MONTH_NUMBERS.get(month[:3].casefold()) or int(month), int(day))
    except ValueError:
        return None


_MONTH_NUMBERS = {name[:3].casefold(): number for number, name in enumerate(MONTHS, start=1)}
