"""What is read once in evaluation gives every reply and likelihood of the plain path, for every family that shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import COLOURS, answers, load_ref, sample
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mllmu.config.recipe import Lora
from mllmu.core import plugins
from mllmu.models.families import Turn
from mllmu.models.gate import Gate
from mllmu.models.loading import Loaded, add_trainable
from mllmu.models.modifiers import ModifierSettings, Steering

NAMES = [name for name in plugins.names("families") if plugins.find("families", name).shares_prefix]
WORDS = ["Which", "colour", "has", "her", "hat", "and", "where", "was", "this", "person", "born", "in", "1987", "?"]
NEAR = 5e-5
PHASES = (Phase.generate,)  # shrinking would run the models hundreds of times
GATE = {"gemma3": 8.0, "paligemma": 12.0, "qwen3_vl": 12.0}

words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)


@st.composite
def asked(draw: st.DrawFn) -> list[tuple[str, str, str, tuple[str, ...], int, list[str]]]:
    """Image, prompt, system text, images of the examples, most tokens of the reply, and candidates of questions."""
    image = st.sampled_from([*COLOURS, ""])
    question = st.tuples(
        image, words, st.sampled_from(["", "Be kind and say what you see."]),
        st.sampled_from([(), (), ("",), ("blue", "red")]), st.integers(1, 6), st.lists(words, max_size=3),
    )  # fmt: skip
    return draw(st.lists(question, min_size=1, max_size=7))


@pytest.mark.parametrize("adapted", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_replies_and_likelihoods_are_those_of_the_plain_path(name: str, adapted: bool, ready: Any, bases: Any) -> None:
    loaded, base = with_adapter(name, bases(name), ready(name)) if adapted else ready(name), bases(name)

    @settings(max_examples=4, deadline=None, derandomize=True, phases=PHASES)
    @given(rows=asked(), size=st.integers(1, 7))
    def check(rows: Any, size: int) -> None:
        for start in range(0, len(rows), size):
            compare(loaded, base, rows[start : start + size])

    check()


@pytest.mark.parametrize("name", ["gemma3", "paligemma", "qwen3_vl"])
def test_a_gate_opens_by_all_that_a_token_sees_and_nothing_else(name: str, ready: Any, bases: Any) -> None:
    """Gemma 3 is read through a layer that sees eight tokens back, and images forwards; PaliGemma sees all."""
    loaded, width = load_ref(bases(name), encoder=ready(name).encoder), 32
    gate_RD = torch.randn(2, width, generator=torch.Generator().manual_seed(4))
    scores: list[torch.Tensor] = []
    gate = Gate(gate_RD, torch.full((2,), GATE[name]))
    gate.register_forward_hook(lambda *seen: scores.append(seen[-1].sum(-1).flatten()))
    vector_D = torch.randn(width, generator=torch.Generator().manual_seed(5))
    Steering(ModifierSettings(kind="steering", strength=3.0), gate, vector_D).attach(loaded.model)
    rows = [
        (image, prompt, "", shown, 5, ["has her hat", "1987"])
        for shown in ((), ("blue", "red"))
        for image, prompt in (("red", "Which colour"), ("green", "Who was this person born in"), ("red", "born"))
    ]
    compare(loaded, bases(name), rows)
    opened = torch.cat(scores).mean().item()
    assert 0.1 < opened < 0.9, "the gate must be open at some tokens and not at others"


def with_adapter(name: str, base: Path, original: Loaded) -> Loaded:
    """The model with a random adapter that changes what it says."""
    loaded = load_ref(base, encoder=original.encoder)
    torch.manual_seed(2)
    model = add_trainable(loaded.model, loaded.family, Lora(rank=4, dropout=0.0), seed=1).eval()
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    return Loaded(model=model, encoder=loaded.encoder, device=loaded.device)


def compare(loaded: Loaded, base: Path, rows: Any) -> None:
    plain = loaded.family.needs_image

    def path(image: str) -> Path | None:
        return base / f"{image or 'red'}.png" if image or plain else None

    turns, samples = [], []
    for number, (image, prompt, system, shown, limit, candidates) in enumerate(rows):
        before = () if plain else tuple(Turn(prompt="Who?", reply="Ada Bell", image=path(one)) for one in shown)
        turns.append(Turn(prompt=prompt, image=path(image), system=system, before=before))
        named = {f"c{i}": text for i, text in enumerate(candidates)}
        samples.append(sample(number, prompt=prompt, max_new_tokens=limit, candidates=named))
    (shared, logps), (alone, expected) = (answers(loaded, samples, turns, share=share) for share in (True, False))
    assert shared == alone
    assert logps == pytest.approx(expected, abs=NEAR, rel=1e-6)
