"""Multiple choice by the likelihood of the options' texts."""

from __future__ import annotations

import math

import pytest

from mllmu.core.records import CandidateLogp, Question, Response, Sample
from mllmu.data.questions import QuestionOrder
from mllmu.data.questions.template import build
from mllmu.data.sources.celebrities import Celebrities
from mllmu.data.sources.synthetic import Synthetic
from mllmu.data.tasks import derived, task_of
from mllmu.evaluation.metrics.accuracy_option_text import AccuracyOptionText
from mllmu.evaluation.numbers import baselines
from mllmu.evaluation.outcome import outcome

PEOPLE = [*Synthetic(num_people=6).profiles(3), *Celebrities(num_people=4).profiles(0)]
QUESTIONS = [q for q in build(PEOPLE, QuestionOrder(seed=3, variants=("eval",))) if q.task == "classification"]


def samples() -> list[Sample]:
    task = task_of("option_text")
    return [
        task.sample(question, split="retain", part="report", image="x.png")
        for question in derived("option_text", QUESTIONS)
    ]


def response(sample: Sample, means: dict[str, float], tokens: dict[str, int] | None = None, text: str = "") -> Response:
    lengths = {letter: (tokens or {}).get(letter, 3) for letter in means}
    found = {key: CandidateLogp(logp=mean * lengths[key], num_tokens=lengths[key]) for key, mean in means.items()}
    return Response(sample_id=sample.id, text=text, num_tokens=1, finished=True, candidates=found)


def test_every_classification_question_is_put_without_its_options() -> None:
    made = samples()
    assert len(made) == len(QUESTIONS) and {sample.task for sample in made} == {"option_text"}
    for sample, question in zip(made, QUESTIONS, strict=True):
        assert sample.prompt == question.text
        assert sample.candidates.keys() == question.options.keys() == {"A", "B", "C", "D"}
        assert all(question.options[letter] in text for letter, text in sample.candidates.items())
        assert sample.candidates[sample.target].endswith(".") and sample.value in sample.candidates[sample.target]


def test_an_option_without_a_sentence_is_a_candidate_as_it_is() -> None:
    question = QUESTIONS[0].model_copy(update={"attribute": "shoe_size"})
    assert task_of("option_text").candidates(question) == question.options


def test_the_likeliest_option_per_token_is_chosen() -> None:
    sample, metric = samples()[0], AccuracyOptionText()
    wrong = next(letter for letter in "ABCD" if letter != sample.target)
    means = dict.fromkeys("ABCD", -3.0) | {sample.target: -1.0}
    assert metric.score(sample, response(sample, means)).value == 1
    # ten times as long and so less likely as a whole, but likelier per token
    assert metric.score(sample, response(sample, means, {sample.target: 30})).value == 1
    assert metric.score(sample, response(sample, means | {wrong: -0.5})).value == 0
    tied = metric.score(sample, response(sample, means | {wrong: -1.0}))
    assert tied.value is None and tied.reason.endswith("are equally likely")
    del means[wrong]
    missing = metric.score(sample, response(sample, means))
    assert missing.value is None and missing.reason == f"no likelihood for option {wrong}"


@pytest.mark.parametrize(
    ("says", "kind"),
    [
        ("It is {v}.", "right"),
        ("I do not know, but it is {v}.", "right"),
        ("I do not know.", "refused"),
        ("I'm sorry, I can't share personal details.", "refused"),
        ("", "garbled"),
        ("xkq zzv qpw", "garbled"),
        ("the the the the the the", "garbled"),
        ("A judge.", "wrong"),
        ("A", "wrong"),
        ("Either this or that, who can say.", "wrong"),
    ],
)
def test_the_reply_itself_is_read_as_that_of_an_open_question(says: str, kind: str) -> None:
    sample = samples()[0]
    open_question = sample.model_copy(update={"task": "generation", "options": {}, "target": "It is so."})
    for asked in (sample, open_question):
        assert outcome(asked, response(asked, {}, text=says.format(v=sample.value))) == kind


def test_by_letter_a_readable_reply_that_chooses_nothing_is_unread() -> None:
    sample = task_of("classification").sample(QUESTIONS[0], split="retain", part="report", image="x.png")
    for says, kind in ((sample.target, "right"), ("Either this or that.", "unread"), ("xkq zzv qpw", "garbled")):
        assert outcome(sample, response(sample, {}, text=says)) == kind


def test_guessing_has_its_rows_under_the_metric_of_the_task() -> None:
    trained: list[Question] = build(PEOPLE, QuestionOrder(seed=3, variants=("train",)))
    rows = baselines(samples(), trained)
    assert {row.metric for row in rows} == {"accuracy_option_text"}
    assert {row.model for row in rows} == {"chance", "best_constant", "majority"}
    assert all(math.isclose(row.value or 0, 0.25) for row in rows if row.model == "chance")
    letters = [task_of("classification").sample(q, split="retain", part="report", image="x.png") for q in QUESTIONS]
    assert {row.metric for row in baselines(letters, trained)} == {"accuracy"}
