"""Days as cells of a table: read however they are written, printed in one way, moved."""

import re
from datetime import date, timedelta

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_MONTH = "|".join(f"{name}|{name[:3]}\\.?" for name in MONTHS)
_NUMERIC = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})")
_FORMS = (
    (re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})"), (1, 2, 3)),
    (re.compile(rf"({_MONTH})\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})", re.IGNORECASE), (3, 1, 2)),
    (re.compile(rf"(\d{{1,2}})(?:st|nd|rd|th|\.)?(?:\s+of)?\s+({_MONTH})\s+(\d{{4}})", re.IGNORECASE), (3, 2, 1)),
)
"""Ways of writing a day, and the groups of year, month and day."""


def parse(text: str, *, day_first: bool | None = None) -> date | None:
    """The one day that a whole text stands for, or None; 03/04/1990 is one only if ``day_first`` says which.

    >>> parse("May 14, 1990"), parse("14.05.1990"), parse("03/04/1990")
    (datetime.date(1990, 5, 14), datetime.date(1990, 5, 14), None)
    """
    plain = text.strip()
    for pattern, order in _FORMS:
        if match := pattern.fullmatch(plain):
            return _day(*(match[group] for group in order))
    match = _NUMERIC.fullmatch(plain)
    if not match:
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


def _day(year: str, month: str, day: str) -> date | None:
    """A day by its printed parts, the month by number or name; None if the calendar has no such day."""
    try:
        return date(int(year), _MONTH_NUMBERS.get(month[:3].casefold()) or int(month), int(day))
    except ValueError:
        return None


_MONTH_NUMBERS = {name[:3].casefold(): number for number, name in enumerate(MONTHS, start=1)}
