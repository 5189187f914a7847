"""Whom a request is about, and which facts: what files of --people and --facts say, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllmu.config.load import parse
from mllmu.core.errors import DataError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Profile
from mllmu.data.pseudonyms.keyfile import people_of
from mllmu.data.sources.people import OwnPeople
from mllmu.data.sources.synthetic import Synthetic
from mllmu.requests.order import ForgetOrder, make_recipe
from mllmu.requests.whom import KnownPeople, RequestedFacts, wanted

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
def test_facts_are_named_in_rows_or_in_columns(tmp_path: Path, text: str) -> None:
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
        # whoever is named must not be lost: a first line that is no head, a cell that nobody reads, a row without an id
        ("", "0O3\n004\n", "1 of 2 people are not in the data.*'0O3'.*the heads are id, name, person"),
        ("", "Staff No\n004\n", "'Staff No'.*the heads are id, name, person"),
        ("", "004\n0O3\n", r"'0O3'\.( Did you mean '\d+'\?)? Expected ids or names as the data have them\.$"),
        ("", "002,004\n", "'002, 004' has a cell more"),
        ("", "id\n002,004\n", "'002, 004' has a cell more"),
        ("", "id,,name\n002,004,Ann\n", "has a cell more"),
        ("", "id,name\n002,Ann\n,Bob\n", "', Bob' has no id or name in its first cell"),
        ("", "id\n", "names nobody below its head 'id'"),
        ("003,salary\n004,salary\n", "", "'003' is no head of a column of people"),
        ("0O3,attribute\n004,salary\n", "", "'0O3' is no head"),
        ("id,attribute\n003,salary,pet\n", "", "'003, salary, pet' has a cell more"),
        ("id,attribute\n003,salary\n004,\n", "", "names no attribute of '004'"),
        ("id,pet\n003,x,x\n", "", "has a cell more"),
        ("id,pet\n,x\n003,x\n", "", "has no id or name"),
    ],
)
def test_what_is_wrong_with_the_files_is_said(tmp_path: Path, facts: str, people: str, said: str) -> None:
    with pytest.raises(DataError, match=f"(?s){said}"):
        asked(tmp_path, facts, people)


@pytest.mark.parametrize("head", ["id\n", "Name\n", "PERSON\n", "id,note\n", ""])
def test_a_known_head_is_no_person_and_whoever_is_below_it_is_found_by_id_or_name(tmp_path: Path, head: str) -> None:
    listed = f"{head}004\n{NAMES[1].upper()}\n"
    assert asked(tmp_path, people=listed).people == ["002", "004"]


def person(number: str, name: str) -> Profile:
    return Profile(id=number, kind="fictitious", attributes={"name": name})


def test_namesakes_are_told_apart_by_their_ids_alone(tmp_path: Path) -> None:
    everybody = [
        person("a1", "Ann Lee"),
        person("A1", "Bob Orr"),
        person("b2", "ANN LEE"),
        person("c3", "Zoe\u0308 Fay"),
    ]
    profiles = {one.id: one for one in everybody}
    known = KnownPeople(profiles, [("7", "a1"), ("Real Name", "b2"), ("real name", "c3")], ("id",), tmp_path)
    assert known.ids(["a1", "A1", "bob orr", "ZO\u00cb  FAY", "7"], tmp_path) == ["a1", "A1", "A1", "c3", "a1"]
    for name, who in (("ann lee", "a1, b2"), ("Real Name", "b2, c3")):
        with pytest.raises(DataError, match=f"2 people are called '{name}': {who}. Give the id of each"):
            known.ids([name], tmp_path)


TABLE = Path(__file__).parents[2] / "examples/people/people.csv"
OFFICE = {
    "columns": {"id": "staff_no", "name": "full name", "email": "mail", "address": "street", "biography": "notes"},
    "facts": {"employer": "company"},
    "ignore": ["desk"],
}


def of_table(folder: Path, people: str, facts: str = "", **settings: object) -> RequestedFacts:
    source = {"name": "people", "path": str(TABLE), **OFFICE, **settings}
    for name, text in (("people", people), ("facts", facts)):
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    order = ForgetOrder(
        model="m", data=TABLE, people=folder / "people.csv", facts=folder / "facts.csv" if facts else None
    )
    return wanted(order, parse({"name": "x", "data": {"source": source}}), SilentProgress())


def test_people_of_a_table_are_found_by_their_names_and_by_the_heads_of_its_columns(tmp_path: Path) -> None:
    for head in ("staff_no", "Full Name", "id"):
        found = of_table(tmp_path, f"{head}\nTS-4214\ncarol kitson\n", pseudonymise=False)
        assert found.people == ["TS-4207", "TS-4214"] and found.total == 24
    with pytest.raises(DataError, match="the heads are id, name, person, staff_no, full name"):
        of_table(tmp_path, "company\nTS-4214\n", pseudonymise=False)
    found = of_table(tmp_path, "TS-4207\n", "Full name,Company\nJames Allan,x\n", pseudonymise=False)
    assert found.facts == {"TS-4214": ["fact_employer"]} and found.whole == ["TS-4207"]


def test_people_under_pseudonyms_are_found_by_both_names_and_never_without_their_key(tmp_path: Path) -> None:
    pytest.importorskip("anyascii", reason="needs the extra 'people'")
    key = tmp_path / "key.json"
    with pytest.raises(DataError, match=r"data\.source\.key: .*key\.json: no such key file"):
        of_table(tmp_path, "TS-4207\n", key=str(key))
    assert not key.exists(), "a new one would give pseudonyms that no model was taught"
    hidden = OwnPeople(path=TABLE, key=key, **OFFICE).profiles(0)
    (carol,) = (one for one, known in people_of(key).items() if known["name"] == "Carol Kitson")
    fake = next(one.name for one in hidden if one.id == carol)
    for name in ("TS-4207", "carol kitson", carol, fake.upper()):
        assert of_table(tmp_path, f"{name}\n", key=str(key)).people == [carol]


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
