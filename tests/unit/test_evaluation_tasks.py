"""The exact prompts, and which questions a task refuses."""

from __future__ import annotations

from typing import Any

import pytest

from mllmu.core.errors import DataError, RecipeError
from mllmu.core.plugins import build, find, names
from mllmu.core.records import TASKS, Question
from mllmu.data.tasks import Task


def question(**changes: Any) -> Question:
    base = {
        "id": "p1.eval.generation.text.0",
        "profile_id": "p1",
        "variant": "eval",
        "task": "generation",
        "modality": "text",
        "attribute": "profession",
        "text": "What is Amelia's profession?",
        "answer": "This person works as a nurse.",
        "value": "nurse",
    }
    return Question(**(base | changes))


CHOICE = {
    "id": "p1.eval.classification.image_text.0",
    "task": "classification",
    "modality": "image_text",
    "text": "What is this person's profession?",
    "answer": "B",
    "options": {"D": "pilot", "A": "teacher", "B": "nurse", "C": "artist"},
}
CLOZE = {"task": "cloze", "text": "Amelia's profession is __.", "answer": "nurse", "alternatives": ("pilot", "artist")}


def sample(made: Question, image: str = "", **settings: Any) -> Any:
    return build("tasks", made.task, settings).sample(made, split="forget", part="report", image=image)


def test_classification_prompt_lists_the_options_by_letter() -> None:
    made = sample(question(**CHOICE), image="images/p1.png")
    assert made.prompt == (
        "What is this person's profession?\nA: teacher\nB: nurse\nC: artist\nD: pilot\n"
        "Just give ONE letter representing the answer directly."
    )
    assert made.id == "forget/p1.eval.classification.image_text.0"
    assert made.candidates == {"A": "A", "B": "B", "C": "C", "D": "D"}
    assert (made.target, made.value, made.image, made.max_new_tokens) == ("B", "nurse", "images/p1.png", 8)


def test_cloze_prompt_writes_the_blank_as_a_word() -> None:
    made = sample(question(**CLOZE))
    assert made.prompt == (
        "Amelia's profession is [Blank].\nPlease **ONLY** provide the correct answer that should replace the [Blank]."
    )
    assert made.candidates == {"target": "nurse", "wrong_0": "pilot", "wrong_1": "artist"}
    assert made.max_new_tokens == 24


def test_a_longer_blank_is_still_one_blank() -> None:
    assert "is [Blank].\n" in sample(question(**(CLOZE | {"text": "Her job is ____."}))).prompt


@pytest.mark.parametrize(
    ("modality", "ending"),
    [("text", "in one sentence in ENGLISH."), ("image_text", "in one sentence accurately in ENGLISH.")],
)
def test_generation_prompt_differs_by_modality_as_published(modality: str, ending: str) -> None:
    made = sample(question(modality=modality), image="images/p1.png")
    expected = f"What is Amelia's profession?\nAnswer the question based on your trained knowledge {ending}"
    assert made.prompt == expected
    assert made.max_new_tokens == 50


def test_generation_candidates_hold_truth_rewording_and_wrong_answers() -> None:
    made = sample(question(rewording="The job is nurse.", alternatives=("This person works as a pilot.",)))
    assert made.candidates == {
        "target": "This person works as a nurse.",
        "rewording": "The job is nurse.",
        "wrong_0": "This person works as a pilot.",
        "reworded_wrong_0": "The job is pilot.",
    }


def test_wrong_answers_that_do_not_fit_the_answers_words_are_not_reworded() -> None:
    made = sample(question(rewording="The job is nurse.", alternatives=("A pilot, they say.",)))
    assert not any(key.startswith("reworded") for key in made.candidates)


def test_training_question_is_put_bare() -> None:
    assert sample(question(variant="train")).prompt == "What is Amelia's profession?"


def test_text_sample_never_has_a_image() -> None:
    assert sample(question(), image="images/p1.png").image == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "image_text"}, "no image was given"),
        ({"value": " "}, "answer or value is empty"),
        (CLOZE | {"text": "Her job is nurse."}, "needs the blank '__'"),
        (CHOICE | {"answer": "E"}, "a letter of them as answer, got options"),
        (CHOICE | {"options": {"B": "nurse"}}, "at least two options"),
    ],
)
def test_a_question_that_cannot_be_put_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    made = question(**changes)
    with pytest.raises(DataError, match=message) as error:
        sample(made)
    assert made.id in str(error.value)


def test_a_question_that_is_not_in_the_form_of_the_task_is_refused() -> None:
    with pytest.raises(DataError, match="needs the blank '__'"):
        build("tasks", "cloze", {}).sample(question(), split="forget", part="report", image="")


def test_token_bound_is_a_setting_with_a_lower_bound() -> None:
    assert sample(question(), max_new_tokens=7).max_new_tokens == 7
    with pytest.raises(RecipeError, match="max_new_tokens"):
        build("tasks", "cloze", {"max_new_tokens": 0})


@pytest.mark.parametrize("name", names("tasks"))
def test_every_task_names_existing_metrics_that_can_judge_it(name: str) -> None:
    task = find("tasks", name)
    assert issubclass(task, Task)
    assert task.source.startswith("https://")
    assert task.metrics
    metrics = [find("metrics", metric) for metric in task.metrics]
    assert name not in TASKS or all(name in metric.tasks for metric in metrics)
