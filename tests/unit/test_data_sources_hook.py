"""A source that brings its own questions, images and forget sets: they are used as they are, the rest is made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from PIL import Image

from mllmu.config.recipe import DataSection
from mllmu.core.errors import DataError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Profile, Question
from mllmu.data import build
from mllmu.data.dataset import Dataset, load
from mllmu.data.questions import QuestionOrder, check_published
from mllmu.data.questions.template import build as build_questions
from mllmu.data.sources import Source
from mllmu.data.sources.synthetic import Synthetic


class Bringing(Source):
    """Five people with eval questions and one or two images each, one of them with none."""

    source: ClassVar[str] = "tests"
    fault: str = ""

    def profiles(self, seed: int) -> list[Profile]:
        del seed
        return Synthetic(num_people=5).profiles(0)

    def questions(self, profiles: Sequence[Profile], seed: int) -> list[Question] | None:
        found = build_questions(profiles, QuestionOrder(seed=seed, variants=("eval",)))
        found = [q.model_copy(update={"text": f"{q.text} "}) for q in found]
        if self.fault == "gives it away":
            found[0] = found[0].model_copy(update={"text": f"{found[0].text} {found[0].value}"})
        if self.fault == "no such option":
            found[0] = found[0].model_copy(update={"answer": "Z"})
        return found

    def num_views(self, profile: Profile) -> int:
        return 0 if profile.id == "005" else 1 + (profile.id == "001")

    def image(self, profile: Profile, view: int) -> Image.Image:
        same = view if self.fault == "twins" and profile.id != "001" else int(profile.id) + view * 10
        return Image.new("RGB", (20, 30), (same, 0, 0))

    def forget_ids(self) -> Mapping[str, Sequence[str]]:
        return {"40": ["004", "002"], "7": ["001"]}

    def account(self) -> dict[str, Any]:
        return {"summary": "5 of 6 rows used", "skipped": [{"row": 3, "reason": "no name"}]}


class Publishing(Bringing):
    published: ClassVar[bool] = True


class Noting(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def made(folder: Path, name: str = "Bringing", **settings: Any) -> tuple[Dataset, Noting]:
    section = DataSection.model_validate(
        {
            "source": {"name": f"test_data_sources_hook:{name}", **settings},
            "celebrities": None,
            "portraits": {"name": "test_data_build:Painted", "size": 32, "num_views": 3},
            "splits": {"forget_ratios": [0.4, 0.2], "holdout": 1},
            "train_wordings": 1,
        }
    )
    progress = Noting()
    build.make(section, 3, folder, progress)
    return load(folder), progress


def test_own_questions_are_taken_and_missing_variants_are_written(tmp_path: Path) -> None:
    dataset, _ = made(tmp_path)
    source = Bringing()
    brought = source.questions(source.profiles(3), 3)
    assert [q for q in dataset.questions if q.variant == "eval" and q.profile_id != "h006"] == brought
    ours = build_questions(source.profiles(3), QuestionOrder(seed=3, variants=("train", "test"), train_wordings=1))
    assert sorted(q.id for q in ours) == sorted(q.id for q in dataset.questions if q.variant != "eval")
    assert {q.variant for q in dataset.questions if q.profile_id == "h006"} == {"eval"}


def test_own_images_are_kept_and_a_person_without_gets_portraits(tmp_path: Path) -> None:
    dataset, _ = made(tmp_path)
    assert [dataset.views(f"00{n}") for n in (1, 2, 5)] == [2, 1, 3]
    for person, view in (("001", 0), ("001", 1), ("002", 0)):
        with Image.open(tmp_path / "images" / f"{person}_{view}.png") as image:
            assert image.size == (20, 30)
            assert image.getpixel((0, 0)) == (int(person) + 10 * view, 0, 0)


def test_prescribed_people_are_forgotten_where_the_ratio_is_asked(tmp_path: Path) -> None:
    dataset, _ = made(tmp_path)
    assert dataset.splits["40"] == ["002", "004"]
    assert list(dataset.splits) == ["40", "20", "holdout", "calibration"]
    assert len(dataset.splits["20"]) == 1


def test_what_a_source_left_out_is_written_and_said(tmp_path: Path) -> None:
    _, progress = made(tmp_path)
    assert progress.notes == ["people: 5 of 6 rows used"]
    told = json.loads((tmp_path / "source.json").read_text())
    assert told == {"people": Bringing().account()}


def test_flaws_of_published_text_and_images_are_counted(tmp_path: Path) -> None:
    made(tmp_path / "a", "Publishing", fault="gives it away")
    told = json.loads((tmp_path / "a" / "source.json").read_text())
    assert told["flaws"] == {"people": {"the question contains its answer": 1}}
    made(tmp_path / "b", "Publishing", fault="twins")
    told = json.loads((tmp_path / "b" / "source.json").read_text())
    assert told["equal_images"] == [["002_0.png", "003_0.png"], ["002_0.png", "004_0.png"]]


@pytest.mark.parametrize(
    ("name", "fault", "said"),
    [
        ("Bringing", "gives it away", "the question contains its value"),
        ("Bringing", "twins", r"003_0\.png: the same pixels as 002_0\.png"),
        ("Publishing", "no such option", "the answer 'Z' is not one of at least two options"),
    ],
)
def test_what_cannot_be_used_is_an_error(name: str, fault: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        made(tmp_path, name, fault=fault)


def test_published_questions_need_ids_people_and_text() -> None:
    people = Synthetic(num_people=4).profiles(0)
    good = build_questions(people, QuestionOrder(seed=0, variants=("eval",)))
    assert check_published(good, people) == {}
    for change, said in (
        ({"id": "001.eval"}, "expected the id"),
        ({"profile_id": "009"}, "not among the 4 profiles"),
        ({"text": " "}, "is empty"),
    ):
        with pytest.raises(DataError, match=said):
            check_published([good[0].model_copy(update=change), *good[1:]], people)


def test_every_flaw_of_published_text_has_its_name() -> None:
    people = Synthetic(num_people=4).profiles(0)
    name = people[0].name
    good = build_questions(people[:4], QuestionOrder(seed=0, variants=("eval",)))
    choice = next(q for q in good if q.task == "classification" and q.modality == "image_text")
    cloze = next(q for q in good if q.task == "cloze" and q.modality == "text" and q.profile_id == people[0].id)
    bad = [
        choice.model_copy(
            update={"text": f"Who is {name}?", "options": {"A": "x", "B": "X"}, "answer": "A", "value": "x"}
        ),
        cloze.model_copy(update={"text": "It is here."}),
    ]
    assert check_published(bad, people) == {
        "a question with the image says a word of the name": 1,
        "a text question does not say the whole name": 1,
        "not exactly one blank": 1,
        "not the options A to D": 1,
        "two options are the same": 1,
    }
