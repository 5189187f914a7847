"""The gate opens for a target that knows the people better than a model that never met them, and for no other."""

from __future__ import annotations

import pytest
from helpers_models import sample

from mllmu.core.errors import GateError
from mllmu.core.records import Response, Sample
from mllmu.evaluation.gate import check, memorisation, verdict


def asked(people: int, questions: int = 4) -> list[Sample]:
    """Questions with the right reply 'Riga' about several people to forget."""
    return [
        sample(10 * person + question, profile_id=f"{person:03d}", task="cloze")
        for person in range(people)
        for question in range(questions)
    ]


def replies(samples: list[Sample], right: float) -> list[Response]:
    """The first ``right`` share of every four replies is right."""
    texts = ["Riga" if int(s.question_id) % 10 < 4 * right else "Oslo" for s in samples]
    return [
        Response(sample_id=s.id, text=text, num_tokens=1, finished=True) for s, text in zip(samples, texts, strict=True)
    ]


def test_a_target_that_knows_the_people_passes() -> None:
    samples = asked(5)
    samples[0] = samples[0].model_copy(update={"target": "Oslo", "value": "Oslo"})  # people must not be all alike
    difference = memorisation(samples, replies(samples, 1.0), replies(samples, 0.25))
    # the target is right on 19 of 20, the other on the first of four for four people: 4 of 20
    assert difference.value == pytest.approx(19 / 20 - 4 / 20)
    assert (difference.num, difference.num_clusters) == (20, 5)
    check(difference)


@pytest.mark.parametrize(("target", "other"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.25, 0.5)])
def test_a_target_that_is_no_better_is_stopped(target: float, other: float) -> None:
    samples = asked(5)
    difference = memorisation(samples, replies(samples, target), replies(samples, other))
    assert difference.value == pytest.approx(target - other)
    with pytest.raises(GateError, match=r"memorisation gate: .*Raise finetune\.epochs .*--no-gate"):
        check(difference)


def test_a_lead_that_one_person_makes_alone_is_not_enough() -> None:
    samples = asked(5)
    target = replies(samples, 0.0)
    target[:4] = replies(samples[:4], 1.0)
    difference = memorisation(samples, target, replies(samples, 0.0))
    assert difference.value == pytest.approx(0.2)
    assert difference.p_value is not None and difference.p_value > 0.05
    assert "+0.20, 95 % interval" in verdict(difference)


def test_one_person_has_no_interval_and_a_clear_lead_is_enough() -> None:
    samples = asked(1)
    assert verdict(memorisation(samples, replies(samples, 1.0), replies(samples, 0.0))) == ""
    assert verdict(memorisation(samples, replies(samples, 0.0), replies(samples, 0.0)))


def test_only_counted_questions_about_forgotten_people_matter() -> None:
    samples = asked(3)
    others = [
        sample(900, split="retain", task="cloze"),
        sample(901, part="selection", task="cloze"),
    ]
    everything = [*samples, *others]
    target = [*replies(samples, 1.0), *replies(others, 0.0)]
    difference = memorisation(everything, target, replies(everything, 0.0))
    assert (difference.value, difference.num) == (1.0, 12)


def test_nobody_asked_is_stopped_and_not_an_accident() -> None:
    difference = memorisation([], [], [])
    assert "unknown (0 questions, 0 people)" in verdict(difference)
