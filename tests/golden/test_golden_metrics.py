"""Every parse rule against worked cases: what was said, what was asked, what it must score, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mllmu.core.plugins import build
from mllmu.core.records import Response, Sample
from mllmu.evaluation.outcome import outcome

FOLDER = Path(__file__).parent
METRICS = ("accuracy", "accuracy_first_char", "cloze_contains", "cloze_exact")
OUTCOMES = ("right", "wrong", "refused", "unread", "garbled")


def cases(name: str) -> list[Any]:
    table = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    defaults = {key: table[key] for key in ("task", "options") if key in table}
    return [pytest.param(defaults | case, id=case["name"]) for case in table["cases"]]


def sample_of(case: dict[str, Any]) -> Sample:
    is_choice = case["task"] == "classification"
    return Sample(
        id="forget/q",
        question_id="q",
        profile_id="p",
        split="forget",
        task=case["task"],
        modality="text",
        attribute="profession",
        prompt="?",
        target=case["target"] if case["task"] != "generation" else f"This person: {case['target']}.",
        value=case["options"][case["target"]] if is_choice else case["target"],
        options=case["options"] if is_choice else {},
        max_new_tokens=8,
    )


def response_of(case: dict[str, Any]) -> Response:
    return Response(sample_id="forget/q", text=case["response"], num_tokens=1, finished=case.get("finished", True))


@pytest.mark.parametrize("case", cases("accuracy"))
def test_accuracy_reads_the_reply_strictly(case: dict[str, Any]) -> None:
    check("accuracy", case)


@pytest.mark.parametrize("case", cases("accuracy_first_char"))
def test_first_character_rule_is_kept_as_published(case: dict[str, Any]) -> None:
    check("accuracy_first_char", case)


@pytest.mark.parametrize("case", cases("cloze_contains"))
def test_cloze_containment_is_kept_as_published(case: dict[str, Any]) -> None:
    check("cloze_contains", case)


@pytest.mark.parametrize("case", cases("cloze_exact"))
def test_cloze_equality_ignores_only_form(case: dict[str, Any]) -> None:
    check("cloze_exact", case)


@pytest.mark.parametrize("case", cases("outcome"))
def test_every_reply_has_exactly_the_expected_outcome(case: dict[str, Any]) -> None:
    sample, response = sample_of(case), response_of(case)
    assert outcome(sample, response) == case["expected"], case["why"]
    shares = {name: build("metrics", name, {}).score(sample, response).value for name in OUTCOMES}
    assert shares == {name: float(name == case["expected"]) for name in OUTCOMES}


@pytest.mark.parametrize("name", METRICS)
def test_every_parse_metric_has_a_dozen_cases_with_distinct_names(name: str) -> None:
    found = [case.id for case in cases(name)]
    assert len(found) >= 12
    assert len(set(found)) == len(found)


def check(metric: str, case: dict[str, Any]) -> None:
    score = build("metrics", metric, {}).score(sample_of(case), response_of(case))
    assert score.value == case["expected"], f"{case['why']} (reason given: {score.reason})"
    assert bool(score.reason) == (score.value is None)
