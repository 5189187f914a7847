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
    check(build(people, QuestionOrder(seed=0, variants=("eval",))), people)
    rows = [dict(zip(HEAD.split(","), line(n).split(","), strict=True)) for n in range(8)]
    (tmp_path / "query.json").write_text(json.dumps(rows), encoding="utf-8")
    assert Celebrities(path=tmp_path / "query.json", num_people=3).profiles(0) == people[:3]


def test_every_fault_of_an_export_is_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "q.csv", line(0, "unknown"), line(1).replace("female", "?"), line(2).replace("/Q2", "/Q 2"))
    with pytest.raises(FaultsError) as caught:
        Celebrities(path=path).profiles(0)
    assert [fault[:5] for fault in caught.value.faults][:3] == ["row 2", "row 3", "row 4"]


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
