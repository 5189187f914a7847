"""A cell about a person is read in every usual writing, or refused with what is wrong with it; nothing is guessed."""

from __future__ import annotations

import re
import unicodedata

import pytest

from mllmu.data.cells import RULES, TEXT, is_absent, is_error

SALARIES = {
    "58000": "$58,000", "$58,000": "$58,000", "58.000": "$58,000", "58'000": "$58,000", "58 000": "$58,000",
    "58_000": "$58,000", "58000.50": "$58,000", "58.000,50": "$58,000", "58,000.50": "$58,000", "58000,5": "$58,000",
    "58000.3333333": "$58,000", "58.000 €": "€58,000", "€ 58.000": "€58,000", "58 000,00 €": "€58,000",
    "58000 EUR": "€58,000", "eur 58,000": "€58,000", "58000 £": "£58,000", "GBP 58,000": "£58,000",
    "US$ 58,000": "$58,000", "58,000 USD": "$58,000", "CHF 58'000.-": "CHF 58,000", "Fr. 58’000": "CHF 58,000",
    "58 000 zł": "PLN 58,000", "58.000 Kč": "CZK 58,000", "R$ 58.000": "BRL 58,000", "58000 SEK": "SEK 58,000",
    "₹12,34,567": "INR 1,234,567", "¥5,000,000": "¥5,000,000", "50,000,000 KRW": "KRW 50,000,000", "٥٨٬٠٠٠": "$58,000",
    "1.234.567": "$1,234,567", "0": "$0",
}  # fmt: skip
NO_SALARIES = (
    "58.0000.00", "58,00,00", "1,2345", "0.580", "5.8e4", "$58,000 €", "58000 kr", "58000 per month", "58k", "-58000",
    "(58,000)", "$", "€", "58 - 60", "58.000.00", "12 3456", "9" * 400, "$99,000,000",
)  # fmt: skip


@pytest.mark.parametrize("written", SALARIES)
def test_an_amount_is_the_same_however_thousands_and_currency_are_written(written: str) -> None:
    assert RULES["salary"].read(written) == SALARIES[written]


@pytest.mark.parametrize("written", NO_SALARIES)
def test_an_amount_that_could_be_two_is_none(written: str) -> None:
    assert RULES["salary"].read(written) is None


def test_a_printed_amount_reads_as_itself() -> None:
    for printed in SALARIES.values():
        assert RULES["salary"].read(printed) == printed


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("172", "172 cm"), ("172 cm", "172 cm"), ("1.72 m", "172 cm"), ("1,72 m", "172 cm"), ("1.72", "172 cm"),
        ("1,72", "172 cm"), ("1 m 72", "172 cm"), ("1m72", "172 cm"), ("172,4", "172 cm"), ("172.4cm", "172 cm"),
        ("17.2", None), ("5'8\"", None), ("1,720", None), ("172 in", None), ("-172", None), ("30", None),
    ],
)  # fmt: skip
def test_a_height_is_in_centimetres_or_metres_with_either_decimal_mark(written: str, read: str | None) -> None:
    assert RULES["height"].read(written) == read


def test_the_message_about_a_height_names_the_comma() -> None:
    assert "1,72 m" in RULES["height"].fault("5 ft 8")


NAMES = (
    "Ada Bell", "मीरा जोशी", "ਗੁਰਪ੍ਰੀਤ ਕੌਰ", "நிலா குமார்", "สมชาย ใจดี", "カルラ・ベニング", "王伟", "김민준",
    "محمد بن سلمان", "שרה כהן",
    "Παύλος Ιωάννου", "Анна Петрова", "Արամ Խաչատրյան", "გიორგი", "Gal·la Pons", "O`Darrell", "O’Neill", "D'Arcy",
    "Lise‑Anne Corbel", "Anne–Marie", "Kaʻiulani", "José María de la Cruz y Martínez de Irujo", "Dr. Anna M. Cruz",
    "Nguyễn Thị Minh Khai", "Na", "Null", "محمد‌رضا", unicodedata.normalize("NFD", "Zoë"), "Sammy Davis, Jr.",
)  # fmt: skip


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Austria, Graz", None), ("austria, Styria, Graz", None), ("Österreich, Graz", None), ("USA, Boston", None),
        ("Graz, Austria", "Graz, Austria"), ("Singapore, Singapore", "Singapore, Singapore"),
        ("Lebanon, Ohio, USA", "Lebanon, Ohio, USA"), ("Granada, Spain", "Granada, Spain"),
        ("Mexico, México", "Mexico, México"), ("Town, Atlantis", "Town, Atlantis"),
    ],
)  # fmt: skip
def test_a_country_before_its_city_is_refused(written: str, read: str | None) -> None:
    assert RULES["residence"].read(written) == read


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_be_of_any_script(name: str) -> None:
    assert not is_absent("name", name)
    assert RULES["name"].read(name) == name


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("Ada; DROP TABLE", "character 4 is ';'"),
        ("Ada Bell 3", "character 10 is '3'"),
        ("Ada\u200bBell", r"character 4 is U\+200B \(ZERO WIDTH SPACE\)"),
        ("Ada\u200cBell", r"character 4 is U\+200C"),
        ("\u202eAda", "U\\+202E"),
        ("Ada <b>", "character 5 is '<'"),
        ("- -", "1 to 10 words of letters$"),
        ("A " * 11 + "B", "1 to 10 words of letters$"),
        ("a" * 81, "it has 81$"),
    ],
)
def test_what_is_no_name_is_told_by_its_character(name: str, wrong: str) -> None:
    assert RULES["name"].read(name) is None
    assert re.search(wrong, RULES["name"].fault(name))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("Graz, Austria", "Graz, Austria"),
        ("8010 Graz, Austria", "Graz, Austria"),
        ("A-8010 Graz, Austria", "Graz, Austria"),
        ("Graz 8010, Austria", "Graz, Austria"),
        ("London SW1A 1AA, United Kingdom", "London, United Kingdom"),
        ("1012 AB Amsterdam, Netherlands", "Amsterdam, Netherlands"),
        ("114 55 Stockholm, Sweden", "Stockholm, Sweden"),
        ("Boston, MA 02115, USA", "Boston, MA, USA"),
        ("São Paulo, 01310-100, Brazil", "São Paulo, Brazil"),
        ("10th of Ramadan City, Egypt", "10th of Ramadan City, Egypt"),
        ("8010, Austria", None),
        ("Graz", None),
        ("Graz, ", None),
        ("Graz, 8010", None),
    ],
)
def test_a_postcode_is_no_part_of_a_city(written: str, read: str | None) -> None:
    assert RULES["residence"].read(written) == read


def test_markers_of_absence_and_errors_of_a_spreadsheet_are_no_values() -> None:
    for marker in ("N/A", "n/a", "NULL", "None", "NaN", "unknown", "Not available", "k. A.", "-", "–", "?", "TBD"):
        assert is_absent("hobby", marker), marker
    for error in ("#REF!", "#N/A", "#VALUE!", "#DIV/0!", "#NAME?", "#BEZUG!", "#NV", "#¿NOMBRE?", "#####", "Err:502"):
        assert is_error(error), error
    for value in ("chess", "Nancy", "no sport", "#1 fan", "unknown soldiers", "C#", "nil desperandum", "0"):
        assert not is_absent("hobby", value) and not is_error(value), value
    assert not is_absent("pet", "none") and is_absent("pet", "unknown")


def test_a_fault_of_a_long_text_names_the_place() -> None:
    text = "word " * 15 + "a | b"
    assert TEXT.read(text) is None
    assert TEXT.fault(text).endswith("character 78 is '|'")
    assert TEXT.fault("x" * 81).endswith("it has 81")
    assert TEXT.read("می‌خواهم") == "می‌خواهم", "a joiner of letters is no mark of its own"
