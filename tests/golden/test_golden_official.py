"""The published protocol against golden strings: every prompt byte for byte, every rule of reading a reply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mllmu.core.parsing import after_marker, first_char
from mllmu.core.records import Question
from mllmu.evaluation.published import sample
from mllmu.models.families.idefics2 import Idefics2

PROMPTS = json.loads(Path(__file__).with_name("official_prompts.json").read_text(encoding="utf-8"))
REPLIES = json.loads(Path(__file__).with_name("official_replies.json").read_text(encoding="utf-8"))
MODALITIES = ("image_text", "text")


def question(task: str, modality: str) -> Question:
    fields = PROMPTS["person"][task][modality]
    about = {"id": f"1.eval.{task}.{modality}.0", "profile_id": "1", "variant": "eval", "attribute": "other"}
    return Question.model_validate({**about, "task": task, "modality": modality, "value": "v", **fields})


def everything() -> list[Question]:
    """One example of every task and modality: those of other tasks and modalities must be passed over."""
    return [question(t, m) for t in PROMPTS["person"] for m in MODALITIES]


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in PROMPTS["cases"]])
def test_a_prompt_is_the_published_one_to_the_byte(case: dict[str, Any]) -> None:
    asked, shots = question(case["task"], case["modality"]), everything() * case["shots"]
    rendered = sample(asked, split="forget", image="own", shots=shots)
    has_image = case["modality"] == "image_text"
    assert rendered.prompt == case["prompt"]
    images = [name for name in (*(one.image for one in rendered.examples), rendered.image) if name]
    assert len(images) == case["prompt"].count("<image>")
    assert rendered.image == ("own" if has_image else "")
    assert {example.image for example in rendered.examples} <= {"images/1_0.png" if has_image else ""}
    assert rendered.max_new_tokens == case["tokens"]
    short = sample(asked, split="forget", image="own", shots=shots, letter_tokens=Idefics2.published_letter_tokens)
    assert short.max_new_tokens == case.get("tokens_idefics2", case["tokens"])
    assert short.prompt == case["prompt"]


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in REPLIES["cases"]])
def test_a_reply_is_cut_out_and_read_by_the_published_rules(case: dict[str, Any]) -> None:
    reply = after_marker(case["dialogue"])
    assert (reply, first_char(reply, dict.fromkeys("ABCD", "x"))) == (case["reply"], case["letter"]), case["why"]
