"""Fakes of names and cities: one each, the same under the same key, however many a table needs."""

from __future__ import annotations

import pytest

pytest.importorskip("anyascii")

from mllmu.core.errors import DataError
from mllmu.data.pseudonyms import replacing
from mllmu.data.pseudonyms.keyfile import Key
from mllmu.data.pseudonyms.replacing import Fakes

POOL = ("Ada", "Bea", "Cleo", "Dora", "Elin")


def key() -> Key:
    return Key(format="mllmu-people-key-1", secret="5" * 64)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "_names", lambda *_, **__: POOL)


@pytest.mark.usefixtures("few")
def test_where_single_names_run_out_two_are_joined_and_none_is_given_twice() -> None:
    used = key()
    given = {word: Fakes(used, ()).given(word, "female") for word in (f"name{n}" for n in range(20))}
    assert len(set(given.values())) == 20 and set(POOL) <= set(given.values())
    joined = [fake for fake in given.values() if fake not in POOL]
    assert all(fake.count("-") == 1 and set(fake.split("-")) <= set(POOL) for fake in joined) and len(joined) == 15
    again = Fakes(key(), ())
    assert {word: again.given(word, "female") for word in given} == given
    assert {word: Fakes(used, ()).given(word, "female") for word in given} == given, "what the key file holds stays"


@pytest.mark.usefixtures("few")
def test_a_joined_name_has_no_word_that_none_may_have() -> None:
    fakes = Fakes(key(), {"cleo"})
    assert not any("Cleo" in fakes.given(f"name{n}", "female") for n in range(12))


@pytest.mark.usefixtures("few")
def test_when_joined_names_run_out_the_advice_works() -> None:
    fakes = Fakes(key(), ())
    most = len(POOL) + len(POOL) ** 2
    for number in range(most):
        fakes.given(f"name{number}", "female")
    with pytest.raises(DataError, match=rf"holds {most}\. Split the table, and give each part a key file of its own"):
        fakes.given("one more", "female")
    assert Fakes(key(), ()).given("one more", "female")


@pytest.mark.parametrize("country", ["Sweden", "Spain"])
def test_more_cities_than_the_library_knows_of_a_country(country: str) -> None:
    fakes = Fakes(key(), ())
    assert len({fakes.city(f"Town {n}", country) for n in range(150)}) == 150
