"""The data stage: complete, reproducible to the byte, and nobody on two sides."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from mllmu.config.recipe import DataSection
from mllmu.core.errors import DataError, MllmuError, RecipeError, RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Profile
from mllmu.data import build
from mllmu.data.dataset import Dataset, load
from mllmu.data.portraits import Portraits
from mllmu.data.sources import Source
from mllmu.data.sources.synthetic import Synthetic


class Painted(Portraits):
    """One colour per person and view; ``twins`` paints everybody alike in that view."""

    twins: int = -1

    def render(self, profile: Profile, view: int, seed: int) -> Image.Image:
        del seed
        shade = 0 if view == self.twins else int(hashlib.sha256(profile.id.encode()).hexdigest()[:4], 16)
        return Image.new("RGB", (self.size, self.size), (shade // 256, shade % 256, view))


class Own(Source):
    """A source of the user's own: a couple, as holdout, or broken in one way."""

    source: ClassVar[str] = "tests"
    fault: str = ""

    def profiles(self, seed: int) -> list[Profile]:
        people = Synthetic(num_people=2).profiles(77)
        if self.fault == "nobody":
            return []
        if self.fault == "known":  # the people that the holdout would be
            people = Synthetic(num_people=2, first_id=3, id_prefix="x").profiles(seed)
        if self.fault == "two kinds":
            people[1] = people[1].model_copy(update={"kind": "celebrity"})
        if self.fault == "no name":
            people[1] = people[1].model_copy(update={"attributes": {**people[1].attributes, "name": ""}})
        if self.fault == "same name":
            upper = people[0].name.upper()
            people[1] = people[1].model_copy(update={"attributes": {**people[1].attributes, "name": upper}})
        if self.fault == "same id":
            people[1] = people[1].model_copy(update={"id": people[0].id})
        return people


def section(**changes: Any) -> DataSection:
    settings: dict[str, Any] = {
        "source": {"name": "synthetic", "num_people": 5},
        "celebrities": {"name": "celebrities", "num_people": 6},
        "portraits": {"name": "test_data_build:Painted", "size": 32, "num_views": 3},
        "splits": {"forget_ratios": [0.2, 0.4], "holdout": 2},
        "train_wordings": 2,
    }
    return DataSection.model_validate(settings | changes)


def built(folder: Path, *, seed: int = 0, **changes: Any) -> Dataset:
    build.make(section(**changes), seed, folder, SilentProgress())
    return load(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return built(tmp_path_factory.mktemp("data"))


@cache
def people(first: int = 1) -> list[list[Profile]]:
    groups = build.gather(section(source={"name": "synthetic", "num_people": 5, "first_id": first}), seed=0)
    return [group.profiles for group in groups]


def test_everybody_is_there_once_on_one_side(dataset: Dataset) -> None:
    assert dataset.people == ["001", "002", "003", "004", "005"]
    assert (dataset.holdout, dataset.calibration) == (["h006", "h007"], [])
    assert dataset.celebrities == [f"c00{n}" for n in range(1, 7)]
    assert sorted(dataset.names) == sorted([*dataset.people, *dataset.holdout, *dataset.celebrities])
    assert len(set(dataset.names.values())) == 13
    assert list(dataset.splits) == ["20", "40", "holdout", "calibration"]
    for key, count in (("20", 1), ("40", 2)):
        assert len(dataset.splits[key]) == count
        assert sorted([*dataset.splits[key], *dataset.retained(key)]) == dataset.people


def test_people_are_taught_and_tested_and_the_others_only_asked(dataset: Dataset) -> None:
    counts = Counter((q.profile_id, q.variant) for q in dataset.questions)
    variants = {person: {v for p, v in counts if p == person} for person in dataset.names}
    assert all(variants[person] == {"train", "eval", "test"} for person in dataset.people)
    assert all(variants[person] == {"eval"} for person in [*dataset.holdout, *dataset.celebrities])
    # 18 questions a person, as in the published benchmark, and as many reworded ones
    assert {counts[person, "eval"] for person in dataset.names} == {18}
    assert {counts[person, "test"] for person in dataset.people} == {18}
    assert len({q.id for q in dataset.questions}) == len(dataset.questions)


def test_taught_people_have_all_views_and_the_others_their_portrait(dataset: Dataset) -> None:
    assert {dataset.views(person) for person in dataset.people} == {3}
    assert {dataset.views(person) for person in [*dataset.holdout, *dataset.celebrities]} == {1}
    assert len(list((dataset.folder / "images").iterdir())) == 5 * 3 + 2 + 6


def test_more_wordings_are_more_training_pairs_and_the_same_evaluation(dataset: Dataset, tmp_path: Path) -> None:
    more = built(tmp_path, train_wordings=4)
    for variant in ("eval", "test"):
        assert [q for q in more.questions if q.variant == variant] == [
            q for q in dataset.questions if q.variant == variant
        ]
    before, after = (sum(q.variant == "train" for q in data.questions) for data in (dataset, more))
    assert after == 2 * before


@pytest.mark.parametrize("portraits", ["test_data_build:Painted", "dicebear"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_people(portraits: str, tmp_path: Path) -> None:
    small = {"portraits": {"name": portraits, "size": 32, "num_views": 2}, "source": {"num_people": 3}}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build.make(section(**small), seed, tmp_path / name, SilentProgress())
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert first == again
    assert list(first) == list(other)
    assert first["profiles.jsonl"] != other["profiles.jsonl"]
    assert first["questions.jsonl"] != other["questions.jsonl"]
    celebrities = [name for name in first if name.startswith("images/c")]
    assert len(celebrities) == 6
    assert all(first[name] == other[name] for name in celebrities), "a celebrity looks the same for every seed"
    if portraits == "dicebear":
        holdout = [name for name in first if name.startswith(("images/0", "images/h"))]
        assert len(holdout) == 3 * 2 + 2
        assert all(first[name] != other[name] for name in holdout)


def test_two_people_with_one_image_are_an_error_that_names_both_files(tmp_path: Path) -> None:
    twins = {"name": "test_data_build:Painted", "size": 32, "num_views": 2, "twins": 1}
    with pytest.raises(DataError, match=r"002_1\.png: the same pixels as 001_1\.png\. An image must stand for one"):
        built(tmp_path, portraits=twins)


def test_holdout_people_go_on_where_the_others_end_and_share_no_name() -> None:
    taught, holdout, _ = people()
    assert [p.id for p in holdout] == ["h006", "h007"]
    series = Synthetic(num_people=7).profiles(0)
    assert [p.attributes for p in [*taught, *holdout]] == [p.attributes for p in series]


def test_holdout_people_go_on_behind_a_first_id(tmp_path: Path) -> None:
    taught, holdout, _ = people(first=11)
    assert [p.id for p in taught] == ["011", "012", "013", "014", "015"]
    assert [p.id for p in holdout] == ["h016", "h017"]
    data = built(tmp_path, source={"num_people": 5, "first_id": "11", "id_prefix": "h"})
    assert data.people[0] == "h011" and data.holdout == ["h016", "h017"]


def test_no_holdout_and_no_celebrities_are_possible(tmp_path: Path) -> None:
    data = built(tmp_path, splits={"forget_ratios": [0.2], "holdout": 0}, celebrities=None)
    assert (data.holdout, data.celebrities, len(data.people)) == ([], [], 5)


def test_more_holdout_people_than_the_series_has_are_a_clear_error() -> None:
    with pytest.raises(RecipeError, match=r"data\.splits\.holdout\.num_people: .*less than or equal to 100000"):
        build.gather(section(splits={"holdout": 200_000}), seed=0)


def test_two_people_of_the_users_own_can_be_split(tmp_path: Path) -> None:
    data = built(tmp_path, source="test_data_build:Own", splits={"forget_ratios": [0.5], "holdout": 1})
    assert len(data.splits["50"]) == len(data.retained("50")) == 1
    assert Counter(q.variant for q in data.questions if q.profile_id == "001")["eval"] == 18


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nobody", r"0\.2 of 0 people leaves nobody to retain"),
        ("two kinds", r"data\.source: profile 002 is of kind 'celebrity', expected 'fictitious' only"),
        ("no name", r"data\.source: profile 002 has no name"),
        ("same name", "profile 002: the name '.*' already belongs to profile 001. One person must not be on two sides"),
        ("same id", "profile 001: the id '001' already belongs to profile 001"),
    ],
)
def test_a_source_that_contradicts_itself_is_an_error(fault: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        built(tmp_path, source={"name": "test_data_build:Own", "fault": fault})


def test_a_name_on_two_sides_is_an_error() -> None:
    known = {"source": {"name": "test_data_build:Own", "fault": "known"}, "splits": {"holdout": 2}}
    with pytest.raises(DataError, match=r"profile h003: the name '.*' already belongs to profile x003"):
        build.gather(section(**known), seed=0)


def test_invented_people_cannot_stand_in_for_celebrities() -> None:
    with pytest.raises(DataError, match=r"data\.celebrities: profile x001 is of kind 'fictitious'"):
        build.gather(section(celebrities={"name": "synthetic", "num_people": 6, "id_prefix": "x"}), seed=0)


@pytest.mark.parametrize("content", [b"{", b"\xff", None])
def test_damaged_splits_name_the_file(content: bytes | None, dataset: Dataset, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "splits.json").write_bytes(content)
    with pytest.raises(MllmuError, match=r"splits\.json: (damaged .*Move|no such file)"):
        load(tmp_path)


def test_a_damaged_line_names_file_and_line(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps(dataset.splits))
    (tmp_path / "profiles.jsonl").write_text('{"id": "001"}\n')
    with pytest.raises(RunStoreError, match=r"profiles\.jsonl: damaged \(line 1: kind: Field required"):
        load(tmp_path)
