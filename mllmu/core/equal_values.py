"""When a text states a value: as whole words, and in any of the ways in which dates, amounts and heights are written.

A text becomes a list of words. '$85,000', '85k USD' and '85000 dollars' are the same word, and so are '12 June 1993'
and '1993-06-12', or '165 cm', '1.65 m' and 5'5". Words of scripts without spaces are single characters.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from mllmu.core.parsing import LETTERS, SPACELESS

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = (
    r"(january|february|march|april|may|june|july|august|september|october|november|december"
    r"|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
)
_NUMBER = r"(\d+(?:,\d{3})*(?:\.\d+)?)"
_TIMES = r"\s?(k\b|thousand|m\b|mn\b|million)?"
_SIGNS = {
    "dollar": "$",
    "usd": "$",
    "us": "$",
    "us$": "$",
    "euro": "€",
    "eur": "€",
    "pound": "£",
    "gbp": "£",
    "yen": "¥",
    "jpy": "¥",
}
_CODE = r"(us dollar|dollar|usd|us\$|euro|eur|pound|gbp|yen|jpy)s?\b"


def _date(year: str, month: str, day: str) -> str:
    number = _MONTHS.index(month[:3]) + 1 if month[0].isalpha() else int(month)
    return f" {int(year):04d}-{number:02d}-{int(day):02d} "


def _amount(number: str, times: str | None, sign: str) -> str:
    factor = {"k": 1e3, "t": 1e3, "m": 1e6}.get((times or " ")[0], 1.0)
    return f" {_SIGNS.get(sign.split()[0], sign)}{float(number.replace(',', '')) * factor:.12g} "


def _height(centimetres: float) -> str:
    return f" {centimetres:.4g}cm "


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(rf"\b{_MONTH}\s+(\d{{1,2}})(?:st|nd|rd|th)?,?\s+(\d{{4}})\b"), lambda m: _date(m[3], m[1], m[2])),
    (
        re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th|\.)?(?:\s+of)?\s+{_MONTH},?\s+(\d{{4}})\b"),
        lambda m: _date(m[3], m[2], m[1]),
    ),
    (re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b"), lambda m: _date(m[1], m[2], m[3])),
    (re.compile(rf"([$€£¥])\s?{_NUMBER}{_TIMES}"), lambda m: _amount(m[2], m[3], m[1])),
    (re.compile(rf"(?<![\w.,]){_CODE}\s?{_NUMBER}{_TIMES}"), lambda m: _amount(m[2], m[3], m[1])),
    (re.compile(rf"(?<![\w.,]){_NUMBER}{_TIMES}\s?{_CODE}"), lambda m: _amount(m[1], m[2], m[3])),
    (
        re.compile(rf"(?<![\w.,]){_NUMBER}\s?(?:cm|centimet(?:er|re)s?)\b"),
        lambda m: _height(float(m[1].replace(",", ""))),
    ),
    (
        re.compile(rf"(?<![\w.,]){_NUMBER}\s?(?:m|met(?:er|re)s?)\b"),
        lambda m: _height(100 * float(m[1].replace(",", ""))),
    ),
    (
        re.compile(r"(?<![\w.,])(\d)\s?(?:'|ft\.?|feet|foot)\s?(\d{1,2})\s?(?:\"|''|in(?:ches|\b\.?))"),
        lambda m: _height(round(2.54 * (12 * int(m[1]) + int(m[2])))),
    ),
    (re.compile(r"(?<=\d),(?=\d{3})"), lambda _: ""),
)
_WORD = re.compile(
    rf"\d{{4}}-\d\d-\d\d(?!\d)|[$€£¥]?\d+(?:\.\d+)?[^\W\d_{SPACELESS}]*|[{SPACELESS}]"
    rf"|(?:(?![{SPACELESS}])[{LETTERS}])(?:'?(?![{SPACELESS}])[{LETTERS}])*[+#]*"
)
_ARTICLES = {"a", "an", "the"}


def without_accents(text: str) -> str:
    """A text without the accents of its letters; letters of their own, as 'ł' and 'ø', stay.

    >>> without_accents("José Łuksza")
    'Jose Łuksza'
    """
    return re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text))


@lru_cache(maxsize=16384)
def words(text: str) -> tuple[str, ...]:
    """The words of a text, amounts, dates and heights in one form; articles are left out unless there is nothing else.

    >>> words("She was born on the 12th of June, 1993."), words("85k USD"), words("The A")
    (('she', 'was', 'born', 'on', '1993-06-12'), ('$85000',), ('the', 'a'))
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("”", '"')
    for pattern, form in _FORMS:
        plain = pattern.sub(form, plain)
    found = tuple(_WORD.findall(plain))
    return tuple(word for word in found if word not in _ARTICLES) or found


def same(text: str, value: str) -> bool:
    """Whether a text is a value and nothing else. An empty text is no value."""
    return bool(words(text)) and words(text) == words(value)


def tells(text: str, value: str) -> bool:
    """Whether a text states a value, as whole words one after the other; or is the number of an amount, alone.

    A value of one letter must be a capital that no article can be: 'A' is told in 'Type A.', not in 'A nurse'.

    >>> tells("Every year she earns 85,000 dollars.", "$85,000"), tells("female", "male"), tells("Tirana", "Iran")
    (True, False, False)
    """
    if len(letter := value.strip()) == 1 and letter.isalpha():
        return re.search(rf"(?<!\w){re.escape(letter.upper())}(?![\w+#'’]|\s+[a-z])", text) is not None
    said, wanted = words(text), words(value)
    runs = (said[start : start + len(wanted)] for start in range(len(said) - len(wanted) + 1))
    return bool(wanted) and (any(run == wanted for run in runs) or said == (_number(wanted),))


def _number(wanted: tuple[str, ...]) -> str:
    """The number of an amount or height without its unit."""
    return wanted[0].lstrip("$€£¥").removesuffix("cm") if len(wanted) == 1 else ""
