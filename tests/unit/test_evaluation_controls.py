"""Controls tell a model that knows a person from one that answers whatever is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers_models import sample

from mllmu.config.recipe import Evaluate
from mllmu.core.controlled import Control, ControlResults, ControlRow
from mllmu.core.process import rng
from mllmu.core.records import Response, Sample
from mllmu.data.dataset import Dataset, image_path
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.sources.synthetic import Synthetic
from mllmu.evaluation import gate
from mllmu.evaluation.controls import control_results, control_samples
from mllmu.evaluation.samples import render
from mllmu.evaluation.stats import paired_difference, units_of

KEY = "50"
NOBODY = "I do not know."


@pytest.fixture(scope="module")
def data() -> Dataset:
    profiles = Synthetic(num_people=4).profiles(0)
    questions = build(profiles, QuestionOrder(seed=0, train_wordings=1))
    return Dataset(Path("none"), profiles, questions, {KEY: [p.id for p in profiles[:2]]})


@pytest.fixture(scope="module")
def asked(data: Dataset) -> list[Sample]:
    every = render(data, KEY, Evaluate(), selection=0, seed=0)
    return [sample for sample in every if sample.split == "forget"]


@pytest.fixture(scope="module")
def changed(data: Dataset, asked: list[Sample]) -> list[Sample]:
    return control_samples(asked, data, KEY, seed=0)


def of(changed: Sequence[Sample], control: str, original: Sample) -> Sample:
    return next(sample for sample in changed if sample.id == f"{original.id}@{control}")


def results(asked: list[Sample], changed: list[Sample], reply: Callable[[Sample], str]) -> ControlResults:
    responses = [Response(sample_id=s.id, text=reply(s), num_tokens=1, finished=True) for s in (*asked, *changed)]
    return control_results("target", asked, changed, responses)


def test_a_control_changes_who_is_asked_about_and_nothing_else(
    data: Dataset, asked: list[Sample], changed: list[Sample]
) -> None:
    seen = next(s for s in asked if s.modality == "image_text" and not s.options)
    named = next(s for s in asked if s.modality == "text" and not s.options)
    retained = {image_path(person) for person in data.retained(KEY)}
    blind, lent = (of(changed, control, seen) for control in ("no_picture", "other_picture"))
    assert (blind.image, blind.prompt) == ("", seen.prompt)
    assert lent.image in retained and lent.prompt == seen.prompt
    other = of(changed, "other_name", named)
    name = data.names[named.profile_id]
    assert name in named.prompt and name not in other.prompt
    assert any(data.names[person] in other.prompt for person in data.retained(KEY))
    assert {other.value, lent.value, blind.value} == {named.value, seen.value}, "the truth stays the forgotten person's"


def test_options_alone_show_neither_picture_nor_question(asked: list[Sample], changed: list[Sample]) -> None:
    for choice in (s for s in asked if s.options):
        alone = of(changed, "options_only", choice)
        assert not alone.image and alone.options == choice.options and alone.target == choice.target
        assert alone.prompt.startswith("A: ") and alone.prompt in choice.prompt
    assert not any("@options_only" in s.id and not s.options for s in changed)


def test_the_second_order_moves_every_right_letter_and_keeps_it_balanced(
    asked: list[Sample], changed: list[Sample]
) -> None:
    for first in (s for s in asked if s.options):
        second = of(changed, "second_order", first)
        assert first.target != second.target
        assert second.options[second.target] == first.options[first.target]
        assert sorted(second.options.values()) == sorted(first.options.values())
        assert all(f"{letter}: {value}" in second.prompt for letter, value in second.options.items())


def test_a_model_that_needs_an_image_gets_no_question_without_one(data: Dataset, asked: list[Sample]) -> None:
    seen = [s for s in asked if s.modality == "image_text"]
    found = control_samples(seen, data, KEY, seed=0, needs_image=True)
    assert {s.id.rpartition("@")[2] for s in found} == {"other_picture", "second_order"}
    assert all(s.image for s in found)


def test_the_same_seed_lends_the_same_faces_and_another_one_others(data: Dataset, asked: list[Sample]) -> None:
    first, again, other = ([s.image for s in control_samples(asked, data, KEY, seed=seed)] for seed in (0, 0, 1))
    assert first == again != other


def test_who_knows_the_person_knows_it_all_beyond_the_controls(
    data: Dataset, asked: list[Sample], changed: list[Sample]
) -> None:
    def knows(sample: Sample) -> str:
        own = sample.image == image_path(sample.profile_id) or data.names[sample.profile_id] in sample.prompt
        return sample.target if own else NOBODY

    found = results(asked, changed, knows)
    for modality in ("image_text", "text"):
        best = found.knowledge("target", "forget", modality)
        assert best is not None and (best.asked, best.score, best.difference) == (1.0, 0.0, 1.0)
        assert (best.num, best.unit) == (len([s for s in asked if s.modality == modality]), "facts")
    assert not gate.verdict(known_better(asked), found.rows)


def test_who_answers_whatever_is_shown_knows_nobody(asked: list[Sample], changed: list[Sample]) -> None:
    found = results(asked, changed, lambda sample: sample.target)
    best = found.knowledge("target", "forget", "image_text")
    assert best is not None and (best.control, best.difference) == ("no_picture", 0.0)
    fault = gate.verdict(known_better(asked), found.rows)
    assert "does not depend on whom it is asked about" in fault and "100% of the replies" in fault


def test_who_reads_the_options_alone_is_found_out_in_multiple_choice(
    asked: list[Sample], changed: list[Sample]
) -> None:
    found = results(asked, changed, lambda sample: sample.target if sample.options else NOBODY)
    row = next(row for row in found.rows if (row.control, row.modality) == ("options_only", "text"))
    choices = [s for s in asked if s.modality == "text" and s.options]
    every = [s for s in asked if s.modality == "text"]
    assert row.asked == row.score == pytest.approx(len(choices) / len(every)), "open questions count as not right there"
    assert row.difference == 0.0


def test_choices_that_change_with_the_order_are_counted(asked: list[Sample], changed: list[Sample]) -> None:
    choices = [s for s in asked if s.options and s.modality == "text"]

    def always_a(sample: Sample) -> str:
        return NOBODY if sample.id.startswith(choices[0].id) else "A"

    row = next(row for row in results(asked, changed, always_a).orders if row.modality == "text")
    assert (row.unstable, row.num, row.num_unread) == (1.0, len(choices), 1)
    steady = results(asked, changed, lambda s: s.target).orders[0]
    assert (steady.unstable, steady.asked, steady.right) == (0.0, 1.0, 1.0)


def known_better(asked: Sequence[Sample]) -> gate.Difference:
    """Target right everywhere but once, retain_model nowhere."""
    units, unit = units_of(asked)
    right = [float(index > 0) for index in range(len(asked))]
    return paired_difference(right, [0.0] * len(asked), [units[s.id] for s in asked])._replace(unit=unit)


def one_control(asked: Sequence[bool], changed: Sequence[bool], facts: int) -> ControlRow:
    """A control of one person whose questions about a fact are right or wrong together."""
    samples = [sample(n, profile_id="001", attribute=f"fact {n % facts}") for n in range(len(asked))]
    units, unit = units_of(samples)
    found = paired_difference([*map(float, asked)], [*map(float, changed)], [units[s.id] for s in samples])
    control: Control = "no_picture"
    return ControlRow(
        model="target", split="forget", modality="image_text", control=control, asked=sum(asked) / len(asked),
        score=sum(changed) / len(changed), difference=found.value, low=found.low, high=found.high,
        p_value=found.p_value, num=found.num, num_units=found.num_clusters, unit=unit,
    )  # fmt: skip


@pytest.mark.parametrize(("as_asked", "under_control", "least", "most"), [(0.7, 0.06, 0.9, 1.0), (0.4, 0.4, 0.0, 0.05)])
def test_one_person_of_eighteen_questions_passes_if_she_is_known_and_else_hardly_ever(
    as_asked: float, under_control: float, least: float, most: float
) -> None:
    samples = [sample(n, profile_id="001", attribute=f"fact {n}") for n in range(18)]
    units, _ = units_of(samples)
    known = paired_difference([1.0] * 17 + [0.0], [0.0] * 18, [units[s.id] for s in samples])
    passed, rounds = 0, 300
    for number in range(rounds):
        drawn = rng(0, "one person", str(number))
        rows = [one_control([drawn.random() < p for _ in range(18)], [drawn.random() < q for _ in range(18)], 9)
                for p, q in [(as_asked, under_control)]]  # fmt: skip
        passed += not gate.verdict(known, rows)
    assert least <= passed / rounds <= most


def test_what_a_gate_found_is_read_back_and_earlier_records_have_no_controls(asked: list[Sample]) -> None:
    difference = known_better(asked)
    rows = (one_control([True] * 6, [False] * 5 + [True], 6),)
    assert gate.read(gate.record(difference, rows)) == (difference, rows, None)
    assert gate.read(gate.record(difference, rows, before=difference)) == (difference, rows, difference)
    assert gate.read(difference._asdict()) == (difference, (), None)
    assert gate.read({}) == (None, (), None)
