"""Who else is hurt, and who pays: by hand on three retained people and one to forget."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_models import sample
from PIL import Image

from mllmu.core.records import Profile, Sample, Score, Summary
from mllmu.data.dataset import Dataset
from mllmu.evaluation.bootstrap import summarise
from mllmu.evaluation.faces import like_forgotten
from mllmu.evaluation.summaries import ScoredRun, build_all
from mllmu.evaluation.summaries.near_neighbours import THIRDS

PEOPLE = {
    "f": {"gender": "female", "profession": "baker", "birthplace": "Riga, Latvia", "salary": "$60,000"},
    "near": {"gender": "female", "profession": "Baker", "birthplace": "Liepaja, Latvia", "salary": "60000 USD"},
    "mid": {"gender": "male", "profession": "baker", "birthplace": "Oslo, Norway", "salary": "$90,000"},
    "far": {"gender": "male", "profession": "nurse", "birthplace": "Bergen, Norway", "salary": "$70,000"},
}
PROFILES = [
    Profile(id=name, kind="fictitious", attributes={"name": name, "birth_date": f"May {n + 1}, 198{n}", **attributes})
    for n, (name, attributes) in enumerate(PEOPLE.items())
]
SAMPLES: list[Sample] = [
    sample(10 * n + m, id=f"{'forget' if person == 'f' else 'retain'}/{person}.{attribute}", profile_id=person,
           split="forget" if person == "f" else "retain", attribute=attribute, value=value, task="cloze",
           modality="text")
    for n, (person, attributes) in enumerate(PEOPLE.items()) for m, (attribute, value) in enumerate(attributes.items())
]  # fmt: skip
LOST = {"near.profession", "near.salary", "mid.profession", "mid.salary", "far.salary"}
"""What the unlearned model gets wrong; the target gets everything right."""


def rows(summary: str, likeness: dict[str, float] | None = None) -> dict[str, Summary]:
    def scores(wrong: set[str]) -> list[Score]:
        return [
            Score(sample_id=s.id, metric="right", value=float(s.id.partition("/")[2] not in wrong)) for s in SAMPLES
        ]

    of_models = {"target": scores(set()), "npo": scores(LOST)}
    run = ScoredRun.of(SAMPLES, of_models, {}, [], PROFILES, lambda: likeness or {})
    return {row.detail: row for row in summarise(build_all([summary]), run) if row.model == "npo"}


def test_people_are_sorted_by_the_facts_they_share_whatever_the_spelling() -> None:
    found = rows("near_neighbours")
    assert (found["two or more shared"].value, found["two or more shared"].num) == (2 / 4, 4)  # near shares all four
    assert found["one shared"].value == 2 / 4  # mid shares the profession
    assert found["none shared"].value == 3 / 4


def test_shared_facts_and_the_loss_per_shared_fact() -> None:
    found = rows("near_neighbours")
    # shared: all four of near, and the profession of mid; near keeps gender and birthplace
    assert (found["shared facts"].value, found["shared facts"].num) == (2 / 5, 5)
    # similarity 4, 1, 0 against losses 2/4, 2/4, 1/4: slope = sum (x - 5/3)(y - 5/12) / sum (x - 5/3)^2
    x, y = (4, 1, 0), (0.5, 0.5, 0.25)
    top = sum((a - 5 / 3) * (b - 5 / 12) for a, b in zip(x, y, strict=True))
    assert found["loss per shared fact"].value == pytest.approx(top / sum((a - 5 / 3) ** 2 for a in x))
    assert found["loss per shared fact"].num == 3


def test_people_are_sorted_into_thirds_by_their_looks() -> None:
    found = rows("near_neighbours", {"near": 0.3, "mid": 0.9, "far": -0.1})
    assert [found[band].value for band in THIRDS] == [3 / 4, 2 / 4, 2 / 4]  # far, near, mid
    # likeness in tenths 3, 9, -1 against losses 2/4, 2/4, 1/4
    x, y = (3, 9, -1), (0.5, 0.5, 0.25)
    top = sum((a - 11 / 3) * (b - 5 / 12) for a, b in zip(x, y, strict=True))
    assert found["loss per 0.1 of likeness"].value == pytest.approx(top / sum((a - 11 / 3) ** 2 for a in x))
    assert not {*THIRDS} & {*rows("near_neighbours", {"near": 0.3, "mid": 0.9})}, "no thirds of two people"


def test_looks_are_compared_by_colours_and_where_they_are(tmp_path: Path) -> None:
    def draw(person: str, left: int, right: int) -> None:
        image = Image.new("RGB", (32, 32), (left, left, left))
        image.paste((right, right, right), (16, 0, 32, 32))
        image.save(tmp_path / "images" / f"{person}_0.png")

    (tmp_path / "images").mkdir()
    for person, halves in {"f": (0, 200), "near": (50, 100), "mid": (70, 70), "far": (90, 10)}.items():
        draw(person, *halves)
    people = [profile for profile in PROFILES if profile.id in PEOPLE]
    data = Dataset(tmp_path, people, [], {"25": ["f"]})
    assert like_forgotten(data, "25") == pytest.approx({"near": 1.0, "mid": 0.0, "far": -1.0})
    draw("g", 200, 0)
    two = Dataset(tmp_path, [*people, PROFILES[0].model_copy(update={"id": "g"})], [], {"40": ["f", "g"]})
    assert like_forgotten(two, "40") == pytest.approx({"near": 1.0, "mid": 0.0, "far": 1.0}), "the nearer one counts"
    (tmp_path / "images" / "mid_0.png").unlink()
    assert like_forgotten(data, "25") == {}


def test_groups_of_two_or_more_people_and_what_each_loses() -> None:
    found = rows("by_group")
    assert {name: row.value for name, row in found.items()} == {
        "male": 3 / 8,
        "from Norway": 3 / 8,
        "born in the 1980s": 5 / 12,
    }


def test_without_attributes_nothing_is_claimed() -> None:
    scores = {"npo": [Score(sample_id=s.id, metric="right", value=1.0) for s in SAMPLES]}
    assert (
        summarise(
            build_all(["near_neighbours", "by_group"]),
            ScoredRun.of(SAMPLES, scores | {"target": scores["npo"]}, {}, []),
        )
        == []
    )
