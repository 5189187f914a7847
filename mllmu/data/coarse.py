"""Coarse values in place of fine ones: the year or decade of a day, the country of a place, the band of an amount."""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

from mllmu.core.equal_values import tells
from mllmu.core.errors import DataError
from mllmu.core.records import Question
from mllmu.data import dates
from mllmu.data.cells import CURRENCIES
from mllmu.data.files import packaged_yaml

BANDS = {"salary": 25_000}
"""Width of the bands of an attribute; of others a tenth of the power of ten above the number, at least 10."""
_AMOUNT = re.compile(r"(?P<sign>[^\d\s]*)\s?(?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d{1,2})?)\s?(?P<unit>[^\d\s]*)")
_NO_UNITS = ("k", "thousand", "mn", "mio", "million", "bn", "billion", *map(str.casefold, dates.MONTHS))
"""Words that count in thousands or more, or make a day of the number."""


class CoarseValue(NamedTuple):
    """A coarse value as it is printed.

    Attributes:
        parts: a reply tells it if it tells all of these.
        fine: what a reply that is no finer does not tell.
    """

    text: str
    parts: tuple[str, ...]
    fine: tuple[str, ...]


def coarse(attribute: str, value: str, level: str) -> CoarseValue:
    """The coarse value of a fact at a level.

    Raises:
        DataError: the value has no such coarse one; names it.

    >>> coarse("birth_date", "May 14, 1990", "decade")
    CoarseValue(text='1990s', parts=('1990s',), fine=('May 14, 1990', '1990', 'May 14', '14 May'))
    >>> coarse("residence", "Lyon, France", "country").text, coarse("salary", "$58,000", "band").text
    ('France', '$50,000 to $74,999')
    """
    found = (
        _country(value) if level == "country" else _band(attribute, value) if level == "band" else _day(value, level)
    )
    if found is None:
        raise DataError(
            f"unlearn: '{value}' ({attribute}) cannot be coarsened to its {level}. 'year' and 'decade' are of days "
            "such as 'May 14, 1990', 'country' of places such as 'Lyon, France', 'band' of amounts such as '$58,000'."
        )
    return found


def _day(value: str, level: str) -> CoarseValue | None:
    day = dates.parse(value)
    if day is None:
        return None
    month = dates.MONTHS[day.month - 1]
    close = (f"{month} {day.day}", f"{day.day} {month}")
    if level == "year":
        return CoarseValue(str(day.year), (str(day.year),), (value, *close))
    decade = f"{day.year // 10 * 10}s"
    return CoarseValue(decade, (decade,), (value, str(day.year), *close))


def _country(value: str) -> CoarseValue | None:
    place, comma, country = (part.strip() for part in value.rpartition(","))
    parts = (part.strip() for part in place.split(","))
    fine = tuple(dict.fromkeys((place, *(part for part in parts if part))))
    return CoarseValue(country, (country,), fine) if comma and place and country else None


def _band(attribute: str, value: str) -> CoarseValue | None:
    """The band of exactly one number with a currency or a unit of one word: all other words may be fine values."""
    match = _AMOUNT.fullmatch(value.strip())
    if not match or not _is_currency(match["sign"]) or not _is_unit(match["unit"]):
        return None
    number = float(match["number"].replace(",", ""))
    width = BANDS.get(attribute) or max(10, 10 ** (len(str(int(number))) - 1))
    start = int(number // width) * width
    ends = tuple(
        value.replace(match["number"], f"{end:,}" if width >= 1000 else str(end), 1)
        for end in (start, start + width - 1)
    )
    return CoarseValue(" to ".join(ends), ends, (value,))


def _is_currency(text: str) -> bool:
    """A sign or code of a currency, or nothing."""
    return text.casefold() in ("", *CURRENCIES) or unicodedata.category(text[-1]) == "Sc"


def _is_unit(text: str) -> bool:
    """One word, or a sign."""
    is_word = text.isalpha() and text.casefold() not in _NO_UNITS
    return is_word or text in ("%", "°C", "°F") or _is_currency(text)


def told(reply: str, wanted: CoarseValue) -> tuple[bool, bool]:
    """Whether a reply tells the coarse value, and whether it tells the fine one.

    The end of a band is no fine value where the whole band is told.

    >>> told("Born in the 1990s.", coarse("birth_date", "May 14, 1990", "decade"))
    (True, False)
    >>> told("In Lyon, France.", coarse("residence", "Lyon, France", "country"))
    (True, True)
    """
    whole = all(tells(reply, part) for part in wanted.parts)
    return whole, any(tells(reply, fine) for fine in wanted.fine if not (whole and fine in wanted.parts))


def coarse_question(question: Question, level: str) -> Question | None:
    """A training question with the coarse answer; None for one with options, which are fine values."""
    if question.options:
        return None
    value = coarse(question.attribute, question.value, level).text
    answer = value if question.task == "cloze" else _sentences().get(level, {}).get(question.attribute, "")
    answer = answer or f"This person's {question.attribute.removeprefix('fact_').replace('_', ' ')} is {{v}}."
    return question.model_copy(
        update={"answer": answer.replace("{v}", value), "value": value, "alternatives": (), "rewording": ""}
    )


@cache
def _sentences() -> dict[str, dict[str, str]]:
    """Answers with a coarse value, by level and attribute."""
    sentences: dict[str, dict[str, str]] = packaged_yaml("coarse.yaml")
    return sentences
