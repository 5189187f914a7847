"""Requests over time by hand: forgetting, rebound, drift, and how the report shows them."""

from __future__ import annotations

import pytest

from mllmu.core.records import Sample
from mllmu.core.requested import RequestCost, RequestResults, RequestScore
from mllmu.evaluation.over_time import Course, OverTime
from mllmu.report.inputs import ModelRow
from mllmu.report.requested import request_plots, request_tables

PEOPLE = 8


def asked(split: str, person: str) -> Sample:
    return Sample(
        id=f"{split}/{person}", question_id=person, profile_id=person, split=split, task="cloze", modality="text",
        attribute="pet", prompt="?", target="cat", value="cat", max_new_tokens=4,
    )  # fmt: skip


SAMPLES = [asked("forget", f"{group}{n}") for group in "ab" for n in range(PEOPLE)]
SAMPLES += [asked("retain", f"r{n}") for n in range(PEOPLE)]
REQUEST = {sample.id: 1 if sample.profile_id[0] == "a" else 2 for sample in SAMPLES if sample.split == "forget"}


def known(a: int, b: int, r: int) -> dict[str, float]:
    """Scores of a model that is right about the first so many people of each group."""
    most = {"a": a, "b": b, "r": r}
    return {sample.id: float(int(sample.profile_id[1:]) < most[sample.profile_id[0]]) for sample in SAMPLES}


@pytest.fixture(scope="module")
def scores() -> dict[tuple[str, int, int], RequestScore]:
    """A model that forgets the first request to 2 of 8, and then to 4 of 8 when the second one is wholly forgotten."""
    study = OverTime(SAMPLES, REQUEST, known(8, 8, 8), known(0, 0, 8))
    found = study.scores(Course("m", [known(2, 8, 7), known(4, 0, 6)]))
    return {(score.split, score.request, score.after): score for score in found}


@pytest.mark.parametrize(
    ("place", "value", "change", "forgotten"),
    [
        (("forget", 1, 1), 0.25, None, 0.75),
        (("forget", 2, 1), 1.0, None, 0.0),
        (("forget", 1, 2), 0.5, 0.25, 0.5),
        (("forget", 2, 2), 0.0, None, 1.0),
        (("forget", 0, 1), 0.25, None, 0.75),
        (("forget", 0, 2), 0.25, None, 0.75),
        (("retain", 0, 1), 0.875, -0.125, None),
        (("retain", 0, 2), 0.75, -0.25, None),
    ],
)
def test_scores_rebound_drift_and_forgetting(
    scores: dict[tuple[str, int, int], RequestScore],
    place: tuple[str, int, int],
    value: float,
    change: float | None,
    forgotten: float | None,
) -> None:
    score = scores[place]
    assert score.value == value and score.change == change
    assert score.forgotten == (None if forgotten is None else pytest.approx(forgotten))
    assert score.num == (2 * PEOPLE if place == ("forget", 0, 2) else PEOPLE)


def test_a_rebound_has_an_interval_over_people(scores: dict[tuple[str, int, int], RequestScore]) -> None:
    rebound = scores["forget", 1, 2]
    assert rebound.change_low is not None and rebound.change_high is not None
    assert rebound.change_low < 0.25 < rebound.change_high


def test_where_nothing_was_known_no_share_is_forgotten() -> None:
    study = OverTime(SAMPLES, REQUEST, known(0, 8, 8), known(0, 0, 8))
    found = {(s.request, s.after): s for s in study.scores(Course("m", [known(0, 8, 8)])) if s.split == "forget"}
    assert found[1, 1].forgotten is None and found[1, 1].value == 0


def test_the_yardsticks_are_measured_per_request_and_on_all() -> None:
    study = OverTime(SAMPLES, REQUEST, known(8, 4, 8), known(0, 2, 8))
    found = {(s.model, s.split, s.request): s.value for s in study.yardsticks(2)}
    assert found["target", "forget", 0] == 0.75 and found["target", "forget", 2] == 0.5
    assert found["retain_model", "forget", 2] == 0.25 and found["retain_model", "retain", 0] == 1.0
    assert len(found) == 8


def test_the_report_has_an_overview_a_matrix_and_curves() -> None:
    study = OverTime(SAMPLES, REQUEST, known(8, 8, 8), known(0, 0, 8))
    found = [*study.yardsticks(2), *study.scores(Course("m", [known(2, 8, 7), known(4, 0, 6)]))]
    costs = [RequestCost(model="m", number=n, seconds=30 * n, adapters=n, mib=0.5 * n) for n in (1, 2)]
    results = RequestResults(labels=("8 people", "pet of 8 people"), scores=tuple(found), costs=tuple(costs))
    models = [
        ModelRow(name="target", role="target"),
        ModelRow(name="retain_model", role="retain_model"),
        ModelRow(name="m", role="unlearned"),
    ]
    overview, matrix = request_tables(results, models)
    cells = {row.name: row.cells for row in overview.rows}
    assert [cell.text for cell in cells["m"]] == ["25.0", "75.0", "+25.0", "75.0", "–", "45.0 s", "2"]
    assert cells["m"][2].below == "request 1 after 2" and cells["m"][3].below.startswith("-25.0")
    assert cells["m"][5].below == "1 min 30 s in all" and cells["m"][6].below == "1.0 MiB"
    assert cells["target"][0].text == "100.0" and cells["retain_model"][0].text == "0.0"
    assert [column.head for column in matrix.columns] == ["target", "retain model", "after 1", "after 2"]
    rows = {row.name: [cell.text for cell in row.cells] for row in matrix.rows}
    assert rows["1: 8 people"] == ["100.0", "0.0", "25.0", "50.0"]
    assert rows["2: pet of 8 people"] == ["100.0", "0.0", "100.0", "0.0"]
    assert rows["retain"] == ["100.0", "100.0", "87.5", "75.0"]
    early = next(row for row in matrix.rows if row.name.startswith("2:")).cells[2]
    assert early.shade is None and "not requested yet" in early.title
    (plot,) = request_plots(results, models)
    assert plot.name == "requests" and plot.png[:4] == b"\x89PNG" and request_plots(None, models) == []
