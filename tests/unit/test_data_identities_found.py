"""Whoever is in the table is found, in whatever letters, case, order and marks the name is written."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("anyascii")

from mllmu.data.pseudonyms.identities import Identities, name_words, words

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzäöüßåøæéèñłčşğıđþ",
    "абвгдежзийклмнопрстуфхцчшщыьэюя",
    "αβγδεζηθικλμνξοπρσςτυφχψω",
    "אבגדהוזחטיךכלםמןנסעףפץצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "王李张刘陈杨黄赵吴周伟芳娜敏静强磊军洋勇",
    "アイウエオカキクケコサシスセソタチツテトナニヌネノ",
    "가나다라마바사아자차카타파하김민준서연",
)
NAME_WORDS = st.one_of([st.text(alphabet, min_size=2, max_size=8).map(str.capitalize) for alphabet in ALPHABETS])
FORMS = st.sampled_from(["NFC", "NFD", "NFKD"])
CASES = st.sampled_from([str.upper, str.lower, str.title, str])
BETWEEN = st.sampled_from([" ", "  ", "_", "-", ", ", " / ", "\u00a0", ""])


@settings(deadline=None, max_examples=400)
@given(NAME_WORDS, NAME_WORDS, FORMS, CASES, BETWEEN, st.booleans(), st.booleans())
def test_a_full_name_is_found_however_it_is_written(
    first: str, last: str, form: str, case: object, between: str, turned: bool, hidden: bool
) -> None:
    assert callable(case)
    written = between.join((last, first) if turned else (first, last))
    written = unicodedata.normalize(form, case(written))
    if hidden:
        written = f"{written[:1]}\u200b{written[1:]}"
    found = Identities.of({"p1": {"name": f"{first} {last}"}}).find(f"123 {written} 456")
    assert [find.form.certain for find in found] == [True], [words(written), words(f"{first} {last}")]


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40), NAME_WORDS, NAME_WORDS)
def test_what_is_found_lies_in_the_text_and_reads_like_the_form(text: str, first: str, last: str) -> None:
    identities = Identities.of({"p1": {"name": f"{first} {last}"}})
    for around in (text, f"{text}{first}{text}", f"{text} {last} {first}"):
        end = 0
        for find in identities.find(around):
            assert end <= find.start < find.end <= len(around)
            assert find.form.plain in "".join(word.plain for word in words(around[find.start : find.end]))
            end = find.end


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lena kim", "lena kim"),
        ("иван ким", "иван ким"),
        ("eli TANAKA", "eli TANAKA"),
        ("Dr. noor ali shah", "noor ali shah"),
        ("Wim ten", "Wim ten"),
        ("ali", "ali"),
        ("mia lee, phd", "mia lee"),
        ("Ana de los Ríos", "Ana Ríos"),
        ("Ludwig van der Meer", "Ludwig Meer"),
        ("J. von Holt", "Holt"),
    ],
)
def test_a_short_word_in_lower_case_is_no_name_only_between_others(name: str, told: str) -> None:
    assert name_words(name) == told.split()


@pytest.mark.parametrize(
    ("name", "text"), [("lena kim", "Kim & Sons"), ("иван ким", "пекарня ким"), ("ali HADDAD", "ali bakery")]
)
def test_short_names_in_lower_case_are_found_in_texts(name: str, text: str) -> None:
    assert len(Identities.of({"p1": {"name": name}}).find(text)) == 1
