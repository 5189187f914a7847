"""Probes tell what a model cannot do from what a method has done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from helpers_models import sample

from mllmu.config.recipe import Evaluate
from mllmu.core.probed import ProbeResults, ProbeShare
from mllmu.core.records import CandidateLogp, Response, Sample
from mllmu.data.dataset import Dataset
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.sources.synthetic import Synthetic
from mllmu.evaluation import gate
from mllmu.evaluation.probes import (
    HARMLESS,
    MOST,
    instruction_samples,
    letter_samples,
    share_chosen,
    share_interval,
    share_right,
    truth,
)
from mllmu.evaluation.samples import render
from mllmu.evaluation.stats import Difference

KEY = "50"
NOTHING = Difference(None, None, None, None, 0, 0)


@pytest.fixture(scope="module")
def asked() -> list[Sample]:
    profiles = Synthetic(num_people=16).profiles(0)
    questions = build(profiles, QuestionOrder(seed=0, train_wordings=1))
    data = Dataset(Path("none"), profiles, questions, {KEY: [p.id for p in profiles[:8]]})
    tasks = ("classification", "cloze", "option_text")
    return render(data, KEY, Evaluate(tasks=tasks), selection=0, seed=0)


def replies(samples: Sequence[Sample], reply: Callable[[Sample], str]) -> list[Response]:
    return [Response(sample_id=s.id, text=reply(s), num_tokens=1, finished=True) for s in samples]


def share(right: int, num: int, chance: float | None = None) -> ProbeShare:
    low, high = share_interval(right, num)
    return ProbeShare(right=right, num=num, low=low, high=high, chance=chance)


def test_the_answer_stands_before_the_question_in_a_sentence_and_without_its_letter(asked: list[Sample]) -> None:
    originals = {one.id: one for one in asked}
    probed = letter_samples(asked, seed=0)
    assert (
        len(probed) == MOST and {one.split for one in probed} == {"retain"} and len({one.id for one in probed}) == MOST
    )
    for one in probed:
        original = originals[one.id.removesuffix("@letters")]
        first, _, rest = one.prompt.partition("\n")
        assert rest == original.prompt and original.options[original.target] in first
        assert one.modality == "text" and not one.candidates and not first.startswith(f"{original.target}:")
        assert first.endswith(".") and not first.startswith("The answer is")
    assert probed == letter_samples(asked, seed=0) != letter_samples(asked, seed=1)


def test_letters_are_probed_with_the_picture_where_nothing_is_asked_by_name(asked: list[Sample]) -> None:
    seen = [one for one in asked if one.modality == "image_text"]
    assert all(one.image for one in letter_samples(seen, seed=0)) and len(letter_samples(seen, seed=0)) == MOST
    assert letter_samples([one for one in asked if one.task == "cloze"], seed=0) == []


def test_a_value_without_a_sentence_is_the_answer() -> None:
    options = {"A": "42", "B": "43"}
    one = sample(1, task="classification", attribute="shoe_size", options=options, target="B", value="43")
    assert truth(one) == "The answer is 43."
    assert "43" in truth(one.model_copy(update={"attribute": "residence"})) != "The answer is 43."


def test_the_intervals_are_those_of_wilson() -> None:
    # 12 of 24: centre 0.5, z^2 / n = 0.16006, reach sqrt(0.25 / 24 + 0.16006 / 96) * 1.96 / 1.16006 = 0.18571
    assert share_interval(12, 24) == pytest.approx((0.3143, 0.6857), abs=1e-4)
    # 24 of 24: n / (n + z^2) = 24 / 27.8415
    assert share_interval(24, 24) == pytest.approx((0.86202, 1.0), abs=1e-5)
    assert share_interval(0, 24) == pytest.approx((0.0, 1 - 0.86202), abs=1e-5)


def test_who_reads_letters_passes_and_who_always_says_a_does_not(asked: list[Sample]) -> None:
    probed = letter_samples(asked, seed=0)

    def reads(one: Sample) -> str:
        told = one.prompt.partition("\n")[0]
        return next(letter for letter, value in one.options.items() if value in told)

    good = share_right(probed, replies(probed, reads))
    assert good is not None and (good.num, good.chance) == (24, 0.25)
    assert good.right >= 20, "a value may lie within another one"
    assert ProbeResults(letters=good).reads_letters is True and not ProbeResults(letters=good).of_letters
    bad = share_right(probed, replies(probed, lambda _: "A"))
    assert bad is not None and bad.right == sum(one.target == "A" for one in probed)
    found = ProbeResults(letters=share(6, 24, 0.25))
    assert found.reads_letters is False
    assert found.of_letters == (
        "This model does not read letters (6 of 24 right with the answer in the prompt, guessing gives 25 %)."
    )


@pytest.mark.parametrize(("right", "reads"), [(10, False), (11, True)])
def test_letters_are_read_if_the_lower_end_is_above_chance(right: int, reads: bool) -> None:
    # 10 of 24 begins at 0.2447, 11 of 24 at 0.2789; four options
    assert ProbeResults(letters=share(right, 24, 0.25)).reads_letters is reads


def test_who_chooses_letters_by_what_it_was_taught_reads_them() -> None:
    found = ProbeResults(letters=share(6, 24, 0.25), by_letter=share(60, 80, 0.25))
    assert found.reads_letters is True and not found.of_letters


def test_letters_that_are_read_but_not_chosen_by_knowledge_are_said() -> None:
    letters, chance, known = share(24, 24, 0.25), share(20, 80, 0.25), share(60, 80, 0.25)
    found = ProbeResults(letters=letters, by_letter=chance, by_text=known)
    assert found.of_letters == (
        "The target reads letters (24 of 24 right with the answer in the prompt, guessing gives 25 %) but does not "
        "choose them by what it was taught (20 of 80 right, guessing gives 25 %): look at option_text (60 of 80 right, "
        "guessing gives 25 %)."
    )
    for other in ({"by_letter": known}, {"by_text": chance}, {"by_text": None}):
        assert not found.model_copy(update=other).of_letters


def test_what_is_chosen_is_counted_by_letter_and_by_the_likelihood_of_the_texts(asked: list[Sample]) -> None:
    def response(one: Sample) -> Response:
        logps = {letter: CandidateLogp(logp=-1.0 - (letter != one.target), num_tokens=1) for letter in one.candidates}
        return Response(sample_id=one.id, text="A", num_tokens=1, finished=True, candidates=logps)

    made = [response(one) for one in asked]
    by_letter = share_chosen(asked, made, "classification", ("text",))
    by_text = share_chosen(asked, made, "option_text", ("text",))
    about = [o for o in asked if (o.task, o.modality) == ("classification", "text") and o.split in ("forget", "retain")]
    assert by_letter is not None and by_text is not None
    assert (by_letter.right, by_letter.num) == (sum(one.target == "A" for one in about), len(about))
    assert (by_text.right, by_text.num, by_text.high) == (len(about), len(about), 1.0)
    assert not by_letter.beats_chance and by_text.beats_chance
    assert share_chosen(asked, made, "generation", ("text",)) is None


def test_open_questions_that_are_answered_right_are_asked_again_under_a_system_prompt(asked: list[Sample]) -> None:
    told = replies(asked, lambda one: one.target if one.split == "retain" else "nothing")
    probed = instruction_samples(asked, told, seed=0)
    assert len(probed) == MOST and {(one.split, one.task) for one in probed} == {("retain", "cloze")}
    assert all(one.system == HARMLESS and one.id.endswith("@instructions") and not one.candidates for one in probed)
    assert instruction_samples(asked, replies(asked, lambda _: "nothing"), seed=0) == []
    closed = [one for one in asked if one.options]
    assert {o.task for o in instruction_samples(closed, told, seed=0)} <= {"classification", "option_text"}


@pytest.mark.parametrize(("right", "takes"), [(15, False), (16, True), (24, True), (0, False)])
def test_a_system_prompt_is_taken_if_the_upper_end_is_four_fifths(right: int, takes: bool) -> None:
    # 15 of 24 ends at 0.7884, 16 of 24 at 0.8204
    found = ProbeResults(instructions=share(right, 24))
    assert found.takes_instructions is takes and bool(found.of_instructions) is not takes


def test_what_a_system_prompt_costs_is_said_with_its_interval() -> None:
    assert ProbeResults(instructions=share(3, 24)).of_instructions == (
        "The target cannot take a system prompt: of 24 questions that it answers right, it answers 3 right under a "
        "harmless one (95 % interval 0.04 to 0.31)."
    )


def test_the_gate_keeps_what_probes_found_and_an_older_one_has_none() -> None:
    found = ProbeResults(letters=share(6, 24, 0.25), instructions=share(3, 24))
    kept = gate.record(NOTHING, [], found)
    assert (kept["probes"]["reads_letters"], kept["probes"]["takes_instructions"]) == (False, False)
    assert gate.read_probes(kept) == found
    assert "probes" not in gate.record(NOTHING, []) and gate.read_probes({}) == ProbeResults()
    assert ProbeResults().reads_letters is None and ProbeResults().takes_instructions is None


def test_no_more_can_be_right_than_was_asked() -> None:
    with pytest.raises(ValueError, match="5 of 4 replies cannot be right"):
        ProbeShare(right=5, num=4, low=None, high=None)
