"""What is left of people of whom some facts are forgotten, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from mllmu.core.records import Response, Sample, Score
from mllmu.evaluation.bootstrap import group_of, summarise
from mllmu.evaluation.metrics.right import Right
from mllmu.evaluation.summaries import ScoredRun
from mllmu.evaluation.summaries.parts import Parts


def asked(split: str, person: str, attribute: str, value: str, **changes: Any) -> Sample:
    fields = {
        "id": f"{split}/{person}/{attribute}", "question_id": f"{person}/{attribute}", "profile_id": person,
        "split": split, "task": "generation", "modality": "text", "attribute": attribute, "prompt": f"{attribute}?",
        "target": value, "value": value, "max_new_tokens": 8,
    }  # fmt: skip
    return Sample.model_validate(fields | changes)


SAMPLES = [
    asked("forget", "1", "salary", "$58,000"),
    asked("forget", "1", "birth_date", "May 14, 1990", coarse="decade"),
    asked("forget", "2", "salary", "$41,000"),
    asked("forget", "2", "birth_date", "June 2, 1985", coarse="decade"),
    asked("forget", "2", "pet", "a cat", id="x", options={"A": "a cat"}, task="classification", target="A"),
    asked("kept", "1", "hobby", "chess"),
    asked("kept", "2", "hobby", "yoga"),
    asked("through", "1", "salary", "$58,000", prompt="Chess is the hobby. Salary?"),
    asked("through", "2", "salary", "$41,000"),
    asked("retain", "3", "salary", "$90,000"),
]
KNOWS = [
    "58000 dollars",
    "May 14, 1990",
    "$41,000",
    "2 June 1985",
    "A",
    "chess",
    "yoga",
    "$58,000",
    "$41,000",
    "$90,000",
]
COARSE = ["no idea", "in the 1990s", "no", "1980s", "A", "chess", "yoga", "no", "no", "$90,000"]
LEAKS = [
    "no",
    "the 1990s: 1990",
    "no",
    "1970s",
    "A",
    "chess, paid $58,000",
    "Who earns $41,000? yoga",
    "$58,000",
    "no",
    "no",
]
"""Replies in the order of the samples."""


def scored(replies: list[str], samples: list[Sample] = SAMPLES) -> ScoredRun:
    metric = Right()
    responses = [
        Response(sample_id=sample.id, text=text, num_tokens=1, finished=True)
        for sample, text in zip(samples, replies, strict=True)
    ]
    scores = [metric.score(sample, response) for sample, response in zip(samples, responses, strict=True)]
    return ScoredRun.of(samples, {"m": scores}, {"m": responses}, [])


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (KNOWS, {"forgotten": 1, "kept": 1, "others": 1, "through": 1, "slips": 0, "coarse": 0, "fine": 1}),
        (COARSE, {"forgotten": 0, "kept": 1, "others": 1, "through": 0, "slips": 0, "coarse": 1, "fine": 0}),
        (LEAKS, {"forgotten": 0, "kept": 1, "others": 0, "through": 0.5, "slips": 1, "coarse": 0, "fine": 0.5}),
    ],
    ids=["knows", "coarse", "leaks"],
)
def test_a_model_that_knows_one_that_is_coarse_and_one_that_leaks(
    replies: list[str], expected: dict[str, float]
) -> None:
    rows = Parts().summarise(scored(replies))
    assert {row.detail: row.value for row in rows} == expected
    numbers = {row.detail: row.num for row in rows}
    assert numbers == {"forgotten": 4, "kept": 2, "others": 1, "through": 2, "slips": 2, "coarse": 2, "fine": 2}
    assert {row.modality for row in rows} == {"text"}


def test_without_such_a_request_there_are_no_rows_and_no_table() -> None:
    plain = [sample for sample in SAMPLES if sample.split in ("forget", "retain")]
    run = ScoredRun.of(plain, {"m": [Score(sample_id=s.id, metric="right", value=1.0) for s in plain]}, {"m": []}, [])
    assert Parts().summarise(run) == [] and list(Parts().tables([])) == []


def test_intervals_draw_a_person_with_what_is_kept_and_forgotten_of_them() -> None:
    assert {group_of(split) for split in ("forget", "test", "kept", "through")} == {"forget"}
    people = "abcdef"
    samples = [asked("forget", p, "salary", f"${n + 1},000") for n, p in enumerate(people)]
    samples += [asked("kept", p, "hobby", "chess") for p in people]
    replies = ["no"] * 6 + ["chess", "$2,000", "chess", "$4,000", "chess", "$6,000"]
    slips = next(row for row in summarise([Parts()], scored(replies, samples)) if row.detail == "slips")
    assert slips.value == 0.5 and slips.low is not None and slips.high is not None
    assert 0 < slips.low < 0.5 < slips.high < 1


def test_a_reply_to_what_is_asked_through_a_kept_fact_counts_as_known_if_it_cannot_be_read() -> None:
    metric = Right()
    assert metric.unread("through") == metric.unread("forget") != metric.unread("kept")
    assert metric.unread("kept") == metric.unread("retain")
