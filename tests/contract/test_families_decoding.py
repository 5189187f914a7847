"""Replies written from buffers of fixed size are those of the path that makes every step anew, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import answers, sample

from mllmu.core import plugins
from mllmu.models.engine import decode_graph, forward
from mllmu.models.families import Turn

NAMES = [name for name in plugins.names("families") if plugins.find("families", name).shares_prefix]
WINDOWED = {"gemma3"}
"""A layer of this small model sees eight tokens back."""
PROMPTS = [
    "Which colour has her hat?",
    "Where?",
    "Who was this person born in 1987?",
    "born",
    "Which colour and where?",
]


def asked(needs_image: bool, base: Path) -> tuple[list[Turn], list[Any]]:
    """Twenty questions with reply limits from one to eleven: three images, none, and examples before some."""
    turns, samples = [], []
    for number in range(20):
        image = [*("red", "green", "blue"), ""][number // 3 % 4] or ("red" if needs_image else "")
        shown = [Turn(prompt="Who?", reply="Ada Bell", image=base / "blue.png")] * (number >= 14 and not needs_image)
        prompt = PROMPTS[number % len(PROMPTS)]
        turns.append(Turn(prompt=prompt, image=base / f"{image}.png" if image else None, before=tuple(shown)))
        samples.append(sample(number, prompt=prompt, max_new_tokens=1 + 7 * number % 11))
    return turns, samples


@pytest.mark.parametrize("rows", [64, 4])
@pytest.mark.parametrize("name", NAMES)
def test_replies_are_those_of_steps_made_anew(
    name: str, rows: int, ready: Any, bases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more questions than rows, a question takes the row of one whose reply has ended."""
    loaded, plain, fixed = ready(name), forward.decode, []

    def both(model: Any, level: Any, first_NV: Any, limits: Any, ends: Any) -> list[list[int]]:
        expected = plain(model, level, first_NV, limits, ends)
        fixed.append(decode_graph.fixed(model, level, limits))
        if fixed[-1]:
            assert decode_graph.decode(model, level, first_NV, limits, ends, rows=rows) == expected
        return expected

    monkeypatch.setattr(forward, "decode", both)
    turns, samples = asked(loaded.family.needs_image, bases(name))
    monkeypatch.setattr(decode_graph, "FEWEST_ROWS", 2)
    with torch.inference_mode(), decode_graph.kept():
        replies, _ = answers(loaded, samples, turns, share=True)
        again, _ = answers(loaded, samples[::-1], turns[::-1], share=True)
    assert replies == again[::-1]
    assert len({len(reply) for reply in replies}) > 3
    assert any(fixed) == (name not in WINDOWED)
