"""Replies as models write them: which option they choose, whether they decline, whether they state a value."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mllmu.core.equal_values import same, tells
from mllmu.core.plugins import build
from mllmu.core.records import Response
from mllmu.core.replies import is_refusal, parse_choice, said

FOLDER = Path(__file__).parent


def table(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return content


CHOICES, REFUSALS, VALUES = table("choices"), table("refusals"), table("values")


@pytest.mark.parametrize("case", CHOICES["cases"], ids=lambda case: repr(case["reply"])[:60])
def test_a_choice_is_read_as_a_person_would_read_it(case: dict[str, Any]) -> None:
    choice = parse_choice(case["reply"], case.get("options", CHOICES["options"]))
    assert choice.letter == case["chosen"], choice.reason
    assert bool(choice.reason) == (choice.letter is None)


@pytest.mark.parametrize("reply", REFUSALS["refusals"])
def test_a_refusal_is_found(reply: str) -> None:
    assert is_refusal(reply)
    assert is_refusal(reply.upper().replace("'", "’"))


@pytest.mark.parametrize("reply", REFUSALS["answers"])
def test_an_answer_is_no_refusal(reply: str) -> None:
    assert not is_refusal(reply)


@pytest.mark.parametrize("case", VALUES["told"], ids=lambda case: f"{case['value']} in {case['reply']}"[:60])
def test_a_value_is_told_however_it_is_written(case: dict[str, str]) -> None:
    assert tells(case["reply"], case["value"])


@pytest.mark.parametrize("case", VALUES["not_told"], ids=lambda case: f"{case['value']} in {case['reply']}"[:60])
def test_a_value_is_not_told_by_a_part_of_a_word_or_number(case: dict[str, str]) -> None:
    assert not tells(case["reply"], case["value"])


def test_every_value_of_the_pools_is_told_by_itself_and_by_no_other_one() -> None:
    from mllmu.data.values import dollars, pools

    values = [*pools().professions, *pools().hobbies, *pools().foods, *map(dollars, range(30, 99))]
    for value in values:
        assert same(value, value) and tells(f"It is {value}.", value)
        assert not any(same(value, other) for other in values if other != value)


@pytest.mark.parametrize(
    "reply",
    [
        "```json" * 2000 + "x{",
        '{"answer": ' * 5000 + '"?"' + "}" * 5000,
        "it is " * 3000 + "?",
        "\\boxed{" * 3000,
        "1" * 20000 + " dollars?",
        "<think>" * 3000,
        "**_" * 5000,
        "A " * 5000,
    ],
    ids=lambda reply: reply[:12],
)
def test_a_hostile_reply_is_read_quickly_and_chooses_nothing(reply: str) -> None:
    start = time.process_time()
    assert parse_choice(reply, CHOICES["options"]).letter is None
    assert not is_refusal(reply) and not tells(reply, "$85,000")
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    ("reply", "left"),
    [
        ("B", "B"),
        ("<think>A?</think>B", "B"),
        ("<THINK>\nA\n</THINK>\n\nB", "\n\nB"),
        ("A?</think>B", "B"),
        ("<thinking>A", ""),
        ("<think>A</think><think>B</think>C", "C"),
        ("<think>A</think> B <think>C", " B "),
        ("B</s>", "B"),
        ("B<|im_end|>", "B"),
        ("5 < 6 > 4", "5 < 6 > 4"),
    ],
)
def test_a_thought_is_not_said(reply: str, left: str) -> None:
    assert said(reply) == left


@pytest.mark.parametrize("metric", ["right", "cloze_exact", "keyword_match", "rougeL"])
def test_no_metric_of_ours_counts_a_thought(metric: str) -> None:
    from test_golden_metrics import sample_of

    task = "generation" if metric in ("rougeL", "keyword_match") else "cloze"
    sample = sample_of({"task": task, "target": "nurse"})
    score = build("metrics", metric, {}).score
    for text in ("<think>This person: nurse.</think>judge", "<think>This person: nurse."):
        assert score(sample, Response(sample_id="forget/q", text=text, num_tokens=5, finished=True)).value == 0
    told = Response(sample_id="forget/q", text="<think>judge?</think>nurse", num_tokens=5, finished=True)
    assert score(sample, told).value > 0


def test_the_published_rules_read_the_whole_text() -> None:
    from test_golden_metrics import sample_of

    text = "<think>nurse</think>judge"
    response = Response(sample_id="forget/q", text=text, num_tokens=5, finished=True)
    sample = sample_of({"task": "cloze", "target": "nurse"})
    assert build("metrics", "cloze_contains", {}).score(sample, response).value == 1
