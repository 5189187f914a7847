"""The gate opens for a target that knows the people better than a model that never met them, and for no other."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from helpers_models import sample

from mllmu.core.errors import GateError
from mllmu.core.process import rng
from mllmu.core.records import Response, Sample
from mllmu.evaluation.gate import check, describe, known_before, memorisation, verdict


def asked(people: int, facts: int = 4, each: int = 1) -> list[Sample]:
    """Questions with the right reply 'Riga' about several people to forget."""
    return [
        sample(1000 * person + 10 * fact + copy, profile_id=f"{person:03d}", task="cloze", attribute=f"fact {fact}")
        for person in range(people)
        for fact in range(facts)
        for copy in range(each)
    ]


def replies(samples: list[Sample], right: float) -> list[Response]:
    """Of every person the first ``right`` share of four facts is told."""
    return said(samples, [int(s.question_id) // 10 % 4 < 4 * right for s in samples])


def said(samples: list[Sample], right: Iterable[bool]) -> list[Response]:
    return [
        Response(sample_id=s.id, text="Riga" if told else "Oslo", num_tokens=1, finished=True)
        for s, told in zip(samples, right, strict=True)
    ]


def test_a_target_that_knows_the_people_passes() -> None:
    samples = asked(5)
    samples[0] = samples[0].model_copy(update={"target": "Oslo", "value": "Oslo"})  # people must not be all alike
    difference = memorisation(samples, replies(samples, 1.0), replies(samples, 0.25))
    # the target is right on 19 of 20, the other on the first of four for four people: 4 of 20
    assert difference.value == pytest.approx(19 / 20 - 4 / 20)
    assert (difference.num, difference.num_clusters, difference.unit) == (20, 20, "facts")
    check(difference)


@pytest.mark.parametrize(("target", "other"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (0.25, 0.5)])
def test_a_target_that_is_no_better_is_stopped(target: float, other: float) -> None:
    samples = asked(5)
    difference = memorisation(samples, replies(samples, target), replies(samples, other))
    assert difference.value == pytest.approx(target - other)
    with pytest.raises(GateError, match=r"memorisation gate: .*Raise finetune\.epochs .*--no-gate"):
        check(difference)


@pytest.mark.parametrize(
    ("of_forget", "of_holdout", "taught"), [(1.0, 0.25, True), (0.25, 0.25, False), (0.0, 1.0, False)]
)
def test_a_base_that_was_taught_the_people_is_named(of_forget: float, of_holdout: float, taught: bool) -> None:
    forget = asked(5)
    holdout = [
        s.model_copy(update={"split": "holdout", "profile_id": f"h{s.profile_id}", "id": f"h{s.id}"}) for s in forget
    ]
    samples, both = [*forget, *holdout], replies(forget, of_forget) + replies(holdout, of_holdout)
    difference = memorisation(samples, both, both)
    before = known_before(difference, samples, both)
    assert (before is not None) == taught
    if before is not None:
        assert before.value == pytest.approx(of_forget - of_holdout)
    said = (
        "its base had been taught them.* finetune.given: true" if taught else "nothing to unlearn yet.* finetune.epochs"
    )
    with pytest.raises(GateError, match=said):
        check(difference, before=before)
    assert known_before(memorisation(samples, both, replies(samples, 0.0)), samples, both) is None
    assert known_before(difference, forget, both) is None, "without holdout people nothing can be said"


def test_a_lead_that_one_person_makes_alone_is_not_enough() -> None:
    samples = asked(6)
    target = replies(samples, 0.0)
    target[:4] = replies(samples[:4], 1.0)
    difference = memorisation(samples, target, replies(samples, 0.0))
    assert difference.value == pytest.approx(1 / 6)
    assert (difference.p_value, difference.unit) == (0.5, "people")
    assert "+0.17, 95 % interval" in verdict(difference)


def test_a_lead_that_one_fact_makes_in_all_its_questions_is_not_enough() -> None:
    samples = asked(1, facts=5, each=8)
    lucky = said(samples, [s.attribute == "fact 0" for s in samples])
    difference = memorisation(samples, lucky, replies(samples, 0.0))
    assert (difference.value, difference.p_value) == (0.2, 0.5), "eight questions, one fact"


def test_up_to_five_people_are_compared_by_what_is_known_of_them_and_it_says_so() -> None:
    one = asked(1, facts=6)
    found = memorisation(one, said(one, [True] * 6), replies(one, 0.0))
    assert (found.p_value, found.unit, found.num_clusters, verdict(found)) == (2**-6, "facts", 6, "")
    assert "(6 questions, compared by 6 facts about these people alone)" in describe(found)
    assert "p = 0.016" in describe(found)
    assert verdict(memorisation(one, replies(one, 0.0), said(one, [True] * 6)))
    few = asked(1, facts=2, each=4)
    assert memorisation(few, replies(few, 1.0), replies(few, 0.0)).unit == "questions", (
        "two facts could never be enough"
    )
    many = asked(6)
    found = memorisation(many, replies(many, 1.0), replies(many, 0.0))
    assert found.unit == "people" and "compared by 6 people)" in describe(found) and not verdict(found)


def test_two_people_whose_leads_are_alike_are_no_certainty() -> None:
    samples = asked(2, facts=10)
    two_each = said(samples, [s.attribute in ("fact 0", "fact 1") for s in samples])
    difference = memorisation(samples, two_each, replies(samples, 0.0))
    assert (difference.value, difference.p_value) == (0.2, 2**-4)
    low, high = difference.low, difference.high
    assert low is not None and high is not None and high - low > 0.2


@pytest.mark.parametrize("people", [1, 2, 3, 5])
def test_25_of_36_against_2_of_36_nearly_always_passes(people: int) -> None:
    passed = sum(_passes(people, known=25 / 36, guessed=2 / 36, number=number) for number in range(100))
    assert passed >= 90


@pytest.mark.parametrize("people", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("guessed", [0.1, 0.3])
def test_nothing_learned_passes_one_time_in_twenty_at_most(people: int, guessed: float) -> None:
    passed = sum(_passes(people, known=guessed, guessed=guessed, number=number) for number in range(200))
    assert passed <= 16, "0.05 of 200, and two standard deviations of luck"


def _passes(people: int, *, known: float, guessed: float, number: int) -> bool:
    """36 questions, or a few more, two or three on each fact, which are told together in four of five cases."""
    samples = asked(people, facts=-(-12 // people), each=3)
    dice = rng(17, people, round(100 * known), number)

    def told(share: float) -> list[bool]:
        facts = {(s.profile_id, s.attribute): dice.random() < share for s in samples}
        return [facts[s.profile_id, s.attribute] if dice.random() < 0.8 else dice.random() < share for s in samples]

    return not verdict(memorisation(samples, said(samples, told(known)), said(samples, told(guessed))))


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
    assert "share of right replies unknown (no questions)" in verdict(difference)
