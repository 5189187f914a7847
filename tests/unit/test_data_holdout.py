"""Holdout people: from a source of their own, or invented with the attributes of the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from mllmu.config.load import parse
from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.data.build import gather
from mllmu.data.holdout import holdout_people, same_attributes

KNOWN = {"birthplace": "Riga, Latvia", "profession": "baker", "hobby": "chess", "food": "soup", "salary": "$50,000",
         "residence": "Oslo, Norway", "fact_employer": "Tern & Sons"}  # fmt: skip


def person(number: int, **more: str) -> Profile:
    own = {"name": f"Ann {number}", "gender": "female", **KNOWN, **more}
    return Profile(id=f"p{number}", kind="fictitious", attributes=own)


def test_invented_people_have_the_attributes_of_the_others() -> None:
    people = [person(1), person(2, fact_employer="Halden Works"), person(3, pet="a dog")]
    section = parse({"name": "x", "data": {"source": {"name": "people", "path": "x.csv"}}}).data
    invented, source = holdout_people(section, people, seed=3)
    assert source is None and len(invented) == 8
    assert {frozenset(p.attributes) for p in invented} == {frozenset({"name", "gender", *KNOWN})}
    assert {p.attributes["fact_employer"] for p in invented} == {"Tern & Sons", "Halden Works"}
    again, _ = holdout_people(section, people, seed=3)
    assert invented == again
    assert not {p.name for p in invented} & {p.name for p in people}


def test_people_of_few_attributes_leave_the_invented_as_they_are() -> None:
    few = [Profile(id="p1", kind="fictitious", attributes={"name": "Ann", "profession": "baker"})]
    synthetic = parse({"name": "x", "data": {"source": {"name": "synthetic", "num_people": 1}}}).data
    invented, _ = holdout_people(synthetic, few, seed=0)
    assert same_attributes(invented, few, 0) == invented


def test_holdout_people_come_from_a_source_of_their_own(tmp_path: Path) -> None:
    raw = {
        "name": "x",
        "data": {
            "source": {"name": "synthetic", "num_people": 3},
            "holdout_source": {"name": "synthetic", "num_people": 4, "first_id": 90},
            "splits": {"holdout": 2, "calibration": 1},
        },
    }
    groups = gather(parse(raw).data, 0)
    assert [p.id for p in groups[1].profiles] == ["090", "091", "092"] and groups[1].source is not None
    raw["data"]["splits"]["holdout"] = 9  # type: ignore[index]
    with pytest.raises(DataError, match=r"data\.holdout_source: 4 people, and data\.splits asks for 10"):
        gather(parse(raw).data, 0)
