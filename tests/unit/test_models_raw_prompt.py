"""Published prompts are answered alike with and without sharing their examples and images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import build
from helpers_models import load_ref

from mllmu.config.recipe import ModelSection
from mllmu.core.records import Modality, ModelRef, Question, Response, Sample, TaskName
from mllmu.evaluation import published
from mllmu.models.engine import forward, raw_prompt
from mllmu.models.engine.respond import plan_batches, respond
from mllmu.models.loading import Loaded, load

PEOPLE = ("red", "green", "blue")


def question(person: str, number: int, task: TaskName, modality: Modality) -> Question:
    text = {"classification": "Which hat is it?", "cloze": "The hat is __.", "generation": "What hat is it?"}[task]
    options = {"A": "red", "B": "green", "C": "blue", "D": "none"} if task == "classification" else {}
    return Question(
        id=f"{person}/{task}/{modality}/{number}",
        profile_id=person,
        variant="eval",
        task=task,
        modality=modality,
        attribute="hat",
        text=f"{number}: {text}",
        answer="A" if options else person,
        value=person,
        options=options,
    )


@pytest.fixture(scope="module")
def asked() -> list[Sample]:
    """Two questions of every kind about two people, the third is shown as an example."""
    found = []
    for modality in ("image_text", "text"):
        for task in ("classification", "cloze", "generation"):
            shots = [question("blue", n, task, modality) for n in range(2)]
            for person in PEOPLE[:2]:
                for number in range(2):
                    one = question(person, number, task, modality)
                    made = published.sample(one, split="forget", image=f"{person}.png", shots=shots)
                    examples = tuple(e.model_copy(update={"image": e.image and "blue.png"}) for e in made.examples)
                    found.append(made.model_copy(update={"max_new_tokens": 6, "examples": examples}))
    return found


def said(
    loaded: Loaded, base: Path, asked: list[Sample], *, share: bool, system_prompt: str = ""
) -> dict[str, Response]:
    batches = respond(loaded, plan_batches(asked, 12), image_folder=base, share=share, system_prompt=system_prompt)
    return {reply.sample_id: reply for batch in batches for reply in batch}


@pytest.mark.parametrize("system_prompt", ["", "Say nothing at all about what is red, green or blue."])
def test_shared_replies_are_those_of_one_prompt_after_the_other(
    tiny_base: Path, asked: list[Sample], system_prompt: str
) -> None:
    loaded = load(ModelSection(device="cpu"), ModelRef(base="tiny"), tiny_base)  # a trained one: it says many things
    wanted = asked[::4] if system_prompt else asked[::2] + asked[1:2]
    plain = said(loaded, tiny_base, wanted, share=False, system_prompt=system_prompt)
    assert said(loaded, tiny_base, wanted, share=True, system_prompt=system_prompt) == plain
    assert len({reply.text for reply in plain.values()}) > 3


@pytest.mark.parametrize("family", ["idefics2", "smolvlm"])
def test_other_families_whose_mark_the_published_prompts_hold_share_too(
    family: str, asked: list[Sample], tmp_path: Path
) -> None:
    """Around the tokens of their images stand others, which belong to the image."""
    loaded = load_ref(build(family, tmp_path))
    with torch.inference_mode():
        prompts = raw_prompt.raw_prompts(loaded, [one for one in asked if one.image], tmp_path, "")
    assert prompts, "nothing is shared"
    wanted = asked[::3]
    assert said(loaded, tmp_path, wanted, share=True) == said(loaded, tmp_path, wanted, share=False)


def test_examples_are_read_once_for_all_people_and_a_image_once_for_its_questions(
    tiny_base: Path, asked: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, lengths = load_ref(tiny_base), []
    read = forward.read

    def counted(model: object, above: object, parents: object, ids: list[list[int]], *rest: Any, **of: Any) -> object:
        lengths.append([(len(row), row.count(loaded.image_token_id)) for row in ids])
        return read(model, above, parents, ids, *rest, **of)  # type: ignore[arg-type]

    monkeypatch.setattr(forward, "read", counted)
    wanted = [one for one in asked if one.task == "classification" and one.image]
    said(loaded, tiny_base, wanted, share=True)
    marks = [[count for _, count in level] for level in lengths]
    assert marks == [[2 * 17], [17, 17], [0] * 4]
    whole = sum(len(raw_prompt.encode(loaded, s, tiny_base)["input_ids"][0]) for s in wanted)
    assert sum(length for level in lengths for length, _ in level) < 0.6 * whole


def test_where_images_have_no_features_nothing_is_shared(
    tiny_base: Path, asked: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_ref(tiny_base)
    monkeypatch.setattr(type(loaded.family), "image_parts", ())
    wanted = [one for one in asked if one.image][:2]
    assert raw_prompt.raw_prompts(loaded, wanted, tiny_base, "") is None
    assert len(said(loaded, tiny_base, wanted, share=True)) == 2


def test_a_processor_that_puts_other_tokens_is_believed(
    tiny_base: Path, asked: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_ref(tiny_base)
    monkeypatch.setattr(loaded.encoder, "image_ids", lambda _: [1, 2, 3])
    assert raw_prompt.raw_prompts(loaded, [one for one in asked if one.image][:2], tiny_base, "") is None
