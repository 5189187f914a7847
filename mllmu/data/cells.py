"""What every cell about a person must be: a :class:`CellRule` makes of trimmed text what a question prints.

Whatever a cell can stand for in two ways is refused with its row and column; nothing is guessed.
"""

import importlib
import re
import unicodedata
from collections.abc import Callable
from datetime import date
from functools import cache
from typing import NamedTuple

from mllmu.core.records import ID_PATTERN
from mllmu.data import dates
from mllmu.data.values import ATTRIBUTES, NONE, pools

MAX_LETTERS = 80
MAX_BIOGRAPHY = 5_000
MAX_NAME_WORDS = 10
HEIGHT_CM = (50, 272)
MAX_SALARY = 10_000_000
MAX_SALARY_ELSEWHERE = 10_000_000_000
"""In currencies other than dollar, euro and pound, some of which count a salary in millions."""
OLDEST = 120
YES = ("yes", "y", "true", "1", "given", "granted", "signed", "x")
GENDERS = {
    **dict.fromkeys(("female", "f", "woman", "w"), "female"),
    **dict.fromkeys(("male", "m", "man"), "male"),
    **dict.fromkeys(("non-binary", "nonbinary", "diverse", "other", "x"), "non-binary"),
}
MAY_BE_NONE = ("medical_condition", "pet")
"""No illness and no pet are an answer and not a gap."""

ABSENT = frozenset({
    "n/a", "na", "n.a.", "n. a.", "none", "null", "nil", "nan", "nat", "<na>", "undefined", "unknown",
    "not available", "not applicable", "not known", "not given", "not specified", "unspecified", "no data",
    "missing", "tbd", "tba", "k.a.", "k. a.", "keine angabe", "unbekannt", "inconnu", "inconnue", "non renseigné",
    "desconocido", "desconocida", "sconosciuto", "sconosciuta", "onbekend", "desconhecido", "okänd", "-", "--",
    "---", "–", "—", "?", "??", "???", ".", "..", "...", "…", "/",
})  # fmt: skip
"""What people and programs write where there is no value, in lower case."""
NAMES_TOO = ("Na", "Nan", "Nat", "Nil", "Null")
"""Of these, what is also a name of a person, written so."""
_ERROR = re.compile(r"#[¡¿]?[A-ZÀ-Þ]+(?:/[A-ZÀ-Þ]+|/0)?[!?]|#N/[AD]|#NV|#[A-Z]+_[A-Z]+|#{3,}|Err:\d+")

_MARKUP = frozenset("<>{}\\|`")
_NAME_MARKS = frozenset(" .,'’‘`´ʹ′-‐‑‒–־՚׳״·・･‧᛫")
_JOINERS = frozenset("\u200c\u200d")
_EMAIL = r"[^@\s]{1,64}@[^@\s.]+(?:\.[^@\s.]+)+"
_IMAGE = r"[^/\\\0]{1,200}"


def is_error(cell: str) -> bool:
    """Whether a spreadsheet shows this for a formula that failed, e.g. ``#REF!``.

    >>> is_error("#DIV/0!"), is_error("#N/A"), is_error("#1 in chess")
    (True, True, False)
    """
    return bool(_ERROR.fullmatch(cell))


def is_absent(target: str, cell: str) -> bool:
    """Whether a cell is a marker of absence and no value: ``N/A``, ``unknown``, ``-`` ...

    >>> is_absent("hobby", "None"), is_absent("pet", "None"), is_absent("name", "Null"), is_absent("name", "NULL")
    (True, False, False, True)
    """
    if target == "name" and cell in NAMES_TOO:
        return False
    plain = cell.casefold()
    return plain in ABSENT and not (target in MAY_BE_NONE and plain == NONE)


class CellRule(NamedTuple):
    """How one kind of cell is read.

    Attributes:
        expected: in words, for the message about a cell that is something else.
        read: the printed value, or None for a cell that is not what was expected.
        allows: whether a character may stand in the cell, where that is all there is to a character.
        limit: most characters.
    """

    expected: str
    read: Callable[[str], str | None]
    allows: Callable[[str], bool] | None = None
    limit: int | None = None

    def fault(self, cell: str) -> str:
        """What was expected of a refused cell, and the character or the length that is wrong if one is."""
        odd = _first_odd(cell, self.allows) if self.allows else None
        if odd is not None:
            return f"{self.expected}; character {odd + 1} is {_described(cell[odd])}"
        return f"{self.expected}; it has {len(cell):,}" if self.limit and len(cell) > self.limit else self.expected


def _first_odd(cell: str, allows: Callable[[str], bool]) -> int | None:
    """Place of the first character that may not stand there; a joiner may behind a letter of a script that has some."""
    joined = (
        n for n, char in enumerate(cell) if not allows(char) and not (char in _JOINERS and cell[:n][-1:] > "\u0590")
    )
    return next(joined, None)


def _described(char: str) -> str:
    """A character in a message: itself, or its number and name if it cannot be seen."""
    name = unicodedata.name(char, "a character without a name")
    return f"'{char}'" if "!" <= char <= "~" else f"U+{ord(char):04X} ({name})"


def _is_plain(char: str) -> bool:
    return char.isprintable() and char not in _MARKUP


def _is_of_name(char: str) -> bool:
    """Letters and their marks in every script, and what stands between the parts of a name."""
    return char.isalpha() or char in _NAME_MARKS or unicodedata.category(char).startswith("M")


def _text(limit: int = MAX_LETTERS) -> CellRule:
    def read(cell: str) -> str | None:
        fits = _first_odd(cell, _is_plain) is None and len(cell) <= limit
        return cell if fits and any(char.isalnum() for char in cell) else None

    return CellRule(f"1 to {limit} letters of plain text without markup", read, _is_plain, limit)


def _name(cell: str) -> str | None:
    fits = 1 <= len(cell.split()) <= MAX_NAME_WORDS and len(cell) <= MAX_LETTERS
    letters = any(char.isalpha() for char in cell) and _first_odd(cell, _is_of_name) is None
    return cell if fits and letters else None


_POSTCODE = "|".join((
    r"\d{3} \d{2}",  # 114 55
    r"\d{4} ?[A-Z]{2}",  # 1012 AB
    r"[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d",  # SW1A 1AA, K1A 0B1
    r"(?:[A-Z]{1,3}-)?\d{3,6}(?:-\d{3,4})?",  # 8010, D-80331, 01310-100
))  # fmt: skip
_POSTCODES = re.compile(rf"(?:{_POSTCODE})\s+|(?:\s+|^)(?:{_POSTCODE})$")


def _place(cell: str) -> str | None:
    """A postcode is no part of a city: '8010 Graz, Austria' is Graz. 'Austria, Graz' would keep the city."""
    given = [part.strip() for part in cell.split(",")]
    parts = [without for part in given if (without := _without_postcode(part))]
    fits = len(parts) >= 2 and all(given) and not any(char.isdecimal() for char in parts[-1])
    if fits and parts[0].casefold() in _countries() and parts[-1].casefold() not in _countries():
        return None
    return ", ".join(parts) if fits and TEXT.read(cell) else None


@cache
def _countries() -> frozenset[str]:
    """Names of countries in lower case, in nine languages."""
    providers = (importlib.import_module(f"faker.providers.address.{language}").Provider for language in _LANGUAGES)
    found = {country for provider in providers for country in provider.countries}
    return frozenset(country.casefold() for country in (*found, *_MORE_COUNTRIES, *(c.country for c in pools().cities)))


_LANGUAGES = ("en", "fr_FR", "de", "es", "it_IT", "nl_NL", "sv_SE", "pt_PT", "pl_PL")
_MORE_COUNTRIES = (
    "US", "U.S.", "U.S.A.", "United States", "UK", "U.K.", "Wales", "Northern Ireland", "Russia", "South Korea", "Iran",
    "Syria", "Vietnam", "Moldova", "Bolivia", "Venezuela", "Türkiye", "Taiwan", "UAE",
)  # fmt: skip


def _without_postcode(part: str) -> str:
    found = _POSTCODES.match(part)
    part = part[found.end() :] if found else part
    return _POSTCODES.sub("", part).strip()


_HEIGHT = re.compile(r"(\d{1,3}(?:[.,]\d{1,2})?)\s*(cm|m)?")
_METRES = re.compile(r"(\d)\s*m\s*(\d\d)(?:\s*cm)?")


def _height(cell: str) -> str | None:
    """Whole centimetres; without a unit a number below 3 counts metres."""
    plain = cell.casefold()
    if found := _METRES.fullmatch(plain):
        cm = int(found[1] + found[2])
    elif found := _HEIGHT.fullmatch(plain):
        number = float(found[1].replace(",", "."))
        metres = found[2] == "m" or (not found[2] and number < 3)
        cm = round(number * (100 if metres else 1))
    else:
        return None
    return f"{cm} cm" if HEIGHT_CM[0] <= cm <= HEIGHT_CM[1] else None


_SIGNS = {
    "USD": "$ us$ dollar dollars", "EUR": "€ euro euros", "GBP": "£ pound pounds", "JPY": "¥ 円", "CHF": "fr. sfr sfr.",
    "CNY": "元 rmb cn¥", "PLN": "zł zl", "CZK": "kč kc", "HUF": "ft", "BRL": "r$", "AUD": "a$ au$", "CAD": "c$ ca$",
    "NZD": "nz$", "HKD": "hk$", "SGD": "s$", "MXN": "mx$", "TWD": "nt$", "INR": "₹", "RUB": "₽ руб. руб", "KRW": "₩ 원",
    "TRY": "₺ tl", "UAH": "₴ грн", "ILS": "₪", "VND": "₫", "THB": "฿", "PHP": "₱", "NGN": "₦", "BGN": "лв лв.",
}  # fmt: skip
_CODES = (
    "AED", "ARS", "AUD", "BGN", "BRL", "CAD", "CHF", "CLP", "CNY", "COP", "CZK", "DKK", "EGP", "EUR", "GBP", "HKD",
    "HUF", "IDR", "ILS", "INR", "ISK", "JPY", "KES", "KRW", "KZT", "MAD", "MXN", "MYR", "NGN", "NOK", "NZD", "PEN",
    "PHP", "PKR", "PLN", "QAR", "RON", "RSD", "RUB", "SAR", "SEK", "SGD", "THB", "TND", "TRY", "TWD", "UAH", "USD",
    "VND", "ZAR",
)  # fmt: skip
CURRENCIES = {code.casefold(): code for code in _CODES} | {
    s: code for code, sign in _SIGNS.items() for s in sign.split()
}
"""Signs and words in lower case -> ISO 4217; a sign of several countries, such as kr, is not in it."""
_PRINTED = {"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥"}
_NUMBERS = tuple(map(re.compile, (
    r"(?P<whole>(?!0)\d{1,3}(?P<mark>[.,'’ ٬_])\d{3}(?:(?P=mark)\d{3})*)(?:(?!(?P=mark))[.,٫](?P<cents>\d{1,2}))?",
    r"(?P<whole>(?!0)\d{1,2}(?:,\d\d)+,\d{3})(?:\.(?P<cents>\d{1,2}))?",  # 12,34,567: lakhs
    r"(?P<whole>\d+)(?:[.,٫](?P<cents>\d{1,2}))?",
    r"(?P<whole>\d{4,})\.(?P<cents>\d+)",
)))  # fmt: skip
"""How amounts are written. 75.000 is seventy-five thousand, as are 75,000 and 75'000: no amount has three decimals."""
_AMOUNT = re.compile(r"(?P<before>\D*)(?P<number>\d(?:.{0,30}\d)?)(?P<after>\D*)")


def _salary(cell: str) -> str | None:
    """Whole units of a currency, which is the dollar where none is named: ``$58,000``, ``€58,000``, ``CHF 58,000``."""
    found = _AMOUNT.fullmatch(re.sub(r"(?<=\d)[.,][-–—]{1,2}", "", cell))  # 58'000.-
    number = next((match for form in _NUMBERS if (match := form.fullmatch(found["number"]))), None) if found else None
    if not found or not number:
        return None
    named = {CURRENCIES.get(text.strip().casefold()) for text in (found["before"], found["after"]) if text.strip()}
    code = named.pop() if len(named) == 1 else None if named else "USD"
    whole = re.sub(r"\D", "", number["whole"])
    amount = round(float(f"{whole}.{number['cents'] or 0}"))
    most = MAX_SALARY if code in ("USD", "EUR", "GBP") else MAX_SALARY_ELSEWHERE
    return f"{_PRINTED.get(code, f'{code} ')}{amount:,}" if code and amount <= most else None


def matching(pattern: str, expected: str) -> CellRule:
    """A cell that is kept as it is, or the group of the pattern in it."""

    def read(cell: str) -> str | None:
        found = re.fullmatch(pattern, cell)
        return found[found.lastindex or 0] if found else None

    return CellRule(expected, read)


def _phone(cell: str) -> str | None:
    digits = sum(char.isdecimal() for char in cell)
    return cell if 5 <= digits <= 15 and all(char in "0123456789 +-()./" for char in cell) else None


def _none_or_text(cell: str) -> str | None:
    return NONE if cell.casefold() == NONE else TEXT.read(cell)


def _consent(cell: str) -> str | None:
    return cell if cell.casefold() in YES else None


TEXT = _text()
PLACE = CellRule(
    "a city and a country with a comma between, the country last, e.g. Lyon, France", _place, _is_plain, MAX_LETTERS
)
RULES: dict[str, CellRule] = {
    **dict.fromkeys(ATTRIBUTES, TEXT),
    **dict.fromkeys(MAY_BE_NONE, TEXT._replace(read=_none_or_text)),
    "name": CellRule(f"1 to {MAX_NAME_WORDS} words of letters", _name, _is_of_name, MAX_LETTERS),
    "gender": CellRule("female, male or non-binary", lambda cell: GENDERS.get(cell.casefold())),
    "birthplace": PLACE,
    "residence": PLACE,
    "height": CellRule(
        f"a height of {HEIGHT_CM[0]} to {HEIGHT_CM[1]} cm, e.g. 172, 172.5 or 172,5 cm, 1.72 or 1,72 m", _height
    ),
    "salary": CellRule(
        f"an amount of 0 to {MAX_SALARY:,} a year and its currency by sign or code, e.g. $58,000, 58.000 €, CHF 58'000",
        _salary,
    ),
    "id": matching(ID_PATTERN, "1 to 64 letters, digits, '_' or '-'"),
    "email": matching(_EMAIL, "an e-mail address"),
    "phone": CellRule("a telephone number of 5 to 15 digits", _phone),
    "address": _text(200),
    "image": matching(_IMAGE, "the name of a file in the folder of images, without '/'"),
    "biography": _text(MAX_BIOGRAPHY),
    "consent": CellRule(f"consent, one of {', '.join(YES[:6])}; remove the person without it", _consent),
}
"""By target of a column."""


def rules(*, day_first: bool | None) -> dict[str, CellRule]:
    """The rules of all targets; a day is printed as questions print it."""
    hint = "" if day_first is not None else "; 03/04/1990 needs the setting day_first"

    def read_day(cell: str) -> str | None:
        day = dates.parse(cell, day_first=day_first)
        return dates.printed(day) if day else None

    rule = CellRule(f"a day such as 1990-05-14{hint}", read_day)
    return RULES | {"birth_date": rule, "consent_date": rule}


def age(birth: date, at: date) -> int:
    """Whole years between two days."""
    return at.year - birth.year - ((at.month, at.day) < (birth.month, birth.day))
