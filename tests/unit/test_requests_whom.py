"""Whom a request is about, and which facts: what files of --people and --facts say, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllmu.config.load import parse
from mllmu.core.errors import DataError
from mllmu.core.process import SilentProgress
from mllmu.data.sources.synthetic import Synthetic
from mllmu.requests.order import ForgetOrder, make_recipe
from mllmu.requests.whom import RequestedFacts, wanted

RECIPE = parse({"name": "x", "data": {"source": {"name": "synthetic", "num_people": 4}}})
NAMES = [profile.name for profile in Synthetic(num_people=4).profiles(0)]


def asked(tmp_path: Path, facts: str = "", people: str = "") -> RequestedFacts:
    given = {}
    for option, text in (("people", people), ("facts", facts)):
        if text:
            given[option] = tmp_path / f"{option}.csv"
            given[option].write_text(text, encoding="utf-8")
    return wanted(ForgetOrder(model="m", data=tmp_path / "data.yaml", **given), RECIPE, SilentProgress())


@pytest.mark.parametrize(
    "text",
    [
        "id,attribute\n003,salary\n002,birth_date\n003,Pet\n003,salary\n",
        "id;Fact\n003;Salary\n003;pet\n002;Birth date\n",
        "id,salary,birth-date,pet\n003,x,,yes\n002,,forget it,\n001,,,\n",
        f"name,salary,BIRTH DATE,pet\n{NAMES[2]},x,,x\n{NAMES[1].upper()},,x,\n",
    ],
)
def test_facts_are_named_in_rows_or_in_columns(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {profile.id: {"name": profile.name} for profile in Synthetic(num_people=4).profiles(0)}
    (tmp_path / "people.key.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mllmu.requests.whom.people_of", lambda _: known)
    found = asked(tmp_path, text)
    assert (found.people, found.total) == (["002", "003"], 4)
    assert found.facts == {"002": ["birth_date"], "003": ["salary", "pet"]}
    assert found.scope == ["002: birth_date", "003: salary, pet"] and found.num_facts == 3


def test_people_and_facts_together_forget_some_people_as_a_whole(tmp_path: Path) -> None:
    found = asked(tmp_path, "id,attribute\n003,salary\n", "001\n")
    assert found.people == ["001", "003"] and found.whole == ["001"]
    assert found.request == {"people": ["001"], "facts": {"003": ["salary"]}}
    assert found.scope == ["001: everything", "003: salary"]
    same = asked(tmp_path, "id,salary,pet\n003,1,1\n001,1,1\n")
    assert same.scope == ["salary", "pet"]
    assert asked(tmp_path, people="id\n001\n").request is None


@pytest.mark.parametrize(
    ("facts", "people", "said"),
    [
        ("id,attribute\n003,salry\n", "", "'003' has no fact 'salry'.*Did you mean 'salary'"),
        ("id,attribute\n003,name\n", "", "'003' has no fact 'name'"),
        ("id,attribute\n007,salary\n", "", "1 of 1 people are not in the data.*'007'"),
        ("id,attribute\n", "", "names no fact"),
        ("id\n003\n", "", "names no fact"),
        ("id,salary\n003,\n", "", "no cell marks a fact"),
        ("id,attribute\n003,salary\n", "003\n", "'003' is forgotten as a whole"),
        ("id,salary\n001,x\n002,x\n003,x\n004,x\n", "", "names all 4 people"),
        ("", "", "--facts FILE"),
        ('id,attribute\n003,"sal\n', "", "damaged CSV"),
    ],
)
def test_what_is_wrong_with_the_files_is_said(tmp_path: Path, facts: str, people: str, said: str) -> None:
    with pytest.raises(DataError, match=f"(?s){said}"):
        asked(tmp_path, facts, people)


def test_too_few_people_to_compare_single_facts_with_are_refused(tmp_path: Path) -> None:
    table = tmp_path / "others.csv"
    order = ForgetOrder(model="m", data=tmp_path / "data.yaml", facts=tmp_path / "f.csv")
    order.data.write_text("name: x\ndata: {source: {name: synthetic, num_people: 8}, splits: {holdout: 2}}\n")
    one = RequestedFacts(["001"], {"001": ["salary"]}, 8)
    made = make_recipe(order, "r001", one, listed=table, parts=("tiny", None, []), methods=[{"name": "npo"}])
    assert made.data.splits.holdout == 24 and made.data.splits.selection == 0
    order.data.write_text(order.data.read_text().replace("splits", "holdout_source: synthetic, splits"))
    with pytest.raises(DataError, match="too few to tell what it knows from luck"):
        make_recipe(order, "r001", one, listed=table, parts=("tiny", None, []), methods=[{"name": "npo"}])
    three = RequestedFacts(["001"], {"001": ["salary", "pet", "hobby"]}, 8)
    made = make_recipe(order, "r001", three, listed=table, parts=("tiny", None, []), methods=[{"name": "npo"}])
    assert made.data.splits.holdout == 2 and made.unlearn.forget is not None
