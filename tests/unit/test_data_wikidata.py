"""Celebrities from an export of the Wikidata query service, with images from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mllmu.core.errors import DataError, FaultsError
from mllmu.data.questions import QuestionOrder, check
from mllmu.data.questions.template import build
from mllmu.data.sources.celebrities import Celebrities

HEAD = (
    "item,itemLabel,genderLabel,place_of_birthLabel,date_of_birth,date_of_death,occupationLabel,countryLabel,fieldLabel"
)


def line(number: int, birth: str = "") -> str:
    birth = birth or f"18{10 + number}-03-14T00:00:00Z"
    return (
        f"http://www.wikidata.org/entity/Q{number},Person Nr{'abcdefgh'[number]},female,Town {number},{birth},"
        f"19{10 + number}-01-01T00:00:00Z,job {number},Land{number},field {number}"
    )


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join([HEAD, *lines]) + "\n", encoding="utf-8")
    return path


def test_an_export_gives_people_who_can_be_asked(tmp_path: Path) -> None:
    again = line(0).replace("job 0", "second job")
    path = write(tmp_path / "query.csv", *(line(n) for n in range(8)), again)
    people = Celebrities(path=path).profiles(0)
    assert [p.id for p in people] == [f"Q{n}" for n in range(8)]
    assert people[0].kind == "celebrity"
    assert people[0].attributes["birth_year"] == "1810" and people[0].attributes["profession"] == "job 0"
    assert people[0].also == {"profession": ("second job",)} and people[1].also == {}
    check(build(people, QuestionOrder(seed=0, variants=("eval",))), people)
    rows = [dict(zip(HEAD.split(","), line(n).split(","), strict=True)) for n in range(8)]
    (tmp_path / "query.json").write_text(json.dumps(rows), encoding="utf-8")
    assert Celebrities(path=tmp_path / "query.json", num_people=3).profiles(0) == [
        people[0].model_copy(update={"also": {}}),
        *people[1:3],
    ]


def test_an_export_of_which_nobody_can_be_used_lists_every_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", line(0).replace("female", "fmale"), line(2).replace("/Q2", "/Q 2"))
    few = path.read_text(encoding="utf-8").replace("Town 0", "").replace("field 0", "").replace("job 0", "")
    path.write_text(few, encoding="utf-8")
    with pytest.raises(FaultsError, match="nobody of 1 people can be used") as caught:
        Celebrities(path=path).profiles(0)
    assert [fault[:5] for fault in caught.value.faults] == ["row 2", "row 2", "row 3"]


LEFT_OUT = {
    "an address in place of a name": (("Person Nra", "Q5482740"), "Q0: no name"),
    "the code of a language in place of a name": (("Person Nra", "sr-Latn"), "Q0: no name"),
    "a blank node in place of a place": (("Town 0", "_:b41"), "'_:b41', expected a label"),
    "an unknown place": (("Town 0", "http://www.wikidata.org/.well-known/genid/77"), "genid/77', expected a label"),
    "a year before our era": (("1810-03-14T00:00:00Z", "-0427-01-01T00:00:00Z"), "expected a year from 1000"),
    "an unknown day": (("1810-03-14T00:00:00Z", "t1213411"), "'t1213411', expected a year from 1000"),
    "no item": (("/Q0", "/Q 0"), "expected an item such as Q937"),
    "the name of an earlier item": (("Person Nra", "Person Nrb"), "Q1: Person Nrb', expected a name that is not"),
}
"""What is changed in the row of Q0, and what the account says."""


@pytest.mark.parametrize("what", LEFT_OUT)
def test_what_is_no_fact_is_left_out_with_its_row_and_the_reason(tmp_path: Path, what: str) -> None:
    (old, new), said = LEFT_OUT[what]
    source = Celebrities(path=write(tmp_path / "q.csv", line(0).replace(old, new), line(1), line(2)))
    people, account = source.profiles(0), source.account()
    assert {"Q1", "Q2"} - {p.id for p in people} in (set(), {"Q1"})
    assert all(new not in p.attributes.values() or new.startswith("Person") for p in people)
    assert any(said in fault for fault in account["left_out"]), account
    assert f"{len(people)} of " in account["summary"] and account["left_out"][0] in account["summary"]


def test_a_marker_of_absence_is_neither_a_fact_nor_a_fault(tmp_path: Path) -> None:
    source = Celebrities(path=write(tmp_path / "q.csv", line(0).replace("field 0", "N/A"), line(1)))
    assert "field" not in source.profiles(0)[0].attributes
    assert source.account()["left_out"] == []


def test_more_people_than_the_export_holds_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", line(0), line(1).replace("Person Nrb", "Q77"))
    assert len(Celebrities(path=path).profiles(0)) == 1
    with pytest.raises(DataError, match=r"1 people can be used, and data.celebrities.num_people asks for 2.*Q77"):
        Celebrities(path=path, num_people=2).profiles(0)


def test_images_are_not_looked_for_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder\. data\.celebrities\.images"):
        Celebrities(images=tmp_path / "none").profiles(0)


def test_two_columns_of_one_meaning_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", line(0))
    path.write_text(path.read_text(encoding="utf-8").replace("fieldLabel", "occupation_Label"), encoding="utf-8")
    with pytest.raises(DataError, match=r"'occupationLabel' and 'occupation_Label' both mean 'profession'"):
        Celebrities(path=path).profiles(0)


def test_a_wrong_column_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", line(0))
    with pytest.raises(DataError, match=r"no 'professio'\. Did you mean 'profession'"):
        Celebrities(path=path, columns={"professio": "occupationLabel"}).profiles(0)


def test_images_come_from_a_folder_where_it_has_one(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", *(line(n) for n in range(2)))
    Image.new("RGB", (60, 40), (200, 0, 0)).save(tmp_path / "Q1.jpg")
    source = Celebrities(path=path, images=tmp_path, size=32)
    first, second = source.profiles(0)
    assert (source.num_views(first), source.num_views(second)) == (0, 1)
    assert source.image(second, 0).size == (32, 32)
    assert source.files() == [path, tmp_path]
