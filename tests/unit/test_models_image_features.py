"""Remembered image features are what the model computes itself, and are not used where they would be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_models import LORA, load_ref, turns_of

from mllmu.models import encoding
from mllmu.models.encoding import FEATURES, Encoder, image_inputs
from mllmu.models.engine.forward import embedded
from mllmu.models.families import Turn, core
from mllmu.models.loading import Loaded, add_trainable


def asked(loaded: Loaded, base: Path) -> list[Turn]:
    turns = turns_of(base)
    for turn in turns:
        loaded.encoder.prompt(turn)
    return turns


@pytest.fixture
def runs(loaded: Loaded) -> list[int]:
    """How many images the vision tower is run on, call by call."""
    counts: list[int] = []
    core(loaded.model).model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: counts.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    return counts


def test_features_give_the_logits_of_pixels(loaded: Loaded, tiny_base: Path) -> None:
    turns = asked(loaded, tiny_base)
    plain = loaded.encoder.batch(turns).inputs
    quick = {k: v for k, v in plain.items() if k != "pixel_values"}
    with torch.no_grad():
        quick |= image_inputs(loaded, turns)
        got, expected = loaded.model(**embedded(loaded.model, quick)).logits, loaded.model(**plain).logits
    assert FEATURES in quick
    assert torch.allclose(got, expected, atol=1e-5)


def test_a_image_goes_through_a_frozen_tower_once(loaded: Loaded, tiny_base: Path, runs: list[int]) -> None:
    turns = asked(loaded, tiny_base)
    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    adapted = Loaded(model=model, encoder=loaded.encoder, device=loaded.device)
    first, again = image_inputs(adapted, turns)[FEATURES], image_inputs(adapted, turns[::-1])[FEATURES]
    with torch.inference_mode():
        image_inputs(adapted, turns[:1])
    assert runs == [1, 1, 1], "three images, each alone"
    assert torch.equal(first[: len(first) // 6], again[-len(first) // 6 :])


def test_another_model_of_the_same_base_uses_them_and_one_with_other_weights_there_does_not(
    loaded: Loaded, tiny_base: Path, runs: list[int]
) -> None:
    turns = asked(loaded, tiny_base)
    twin = load_ref(tiny_base, encoder=loaded.encoder)
    with torch.no_grad():
        kept = image_inputs(loaded, turns)[FEATURES]
        twins = image_inputs(twin, turns)[FEATURES]
        assert torch.equal(kept, twins)
        assert len(runs) == 3
        assert kept.data_ptr() != twins.data_ptr()
        core(loaded.model).model.multi_modal_projector.linear_1.weight.mul_(3)
        assert not torch.allclose(image_inputs(loaded, turns)[FEATURES], kept)
        assert len(runs) == 6


@pytest.mark.parametrize("part", ["vision_tower", "multi_modal_projector"])
def test_a_part_that_is_trained_gets_pixels(loaded: Loaded, tiny_base: Path, part: str) -> None:
    turns = asked(loaded, tiny_base)
    loaded.model.requires_grad_(requires_grad=False)
    assert FEATURES in image_inputs(loaded, turns)
    core(loaded.model).model.get_submodule(part).requires_grad_(requires_grad=True)
    assert list(image_inputs(loaded, turns)) == ["pixel_values"]


def test_turns_without_images_have_none(loaded: Loaded) -> None:
    assert image_inputs(loaded, [Turn(prompt="Where?")]) == {}


def test_features_made_in_an_evaluation_can_be_trained_on(loaded: Loaded, tiny_base: Path) -> None:
    turns = asked(loaded, tiny_base)
    with torch.inference_mode():
        image_inputs(loaded, turns)
    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    inputs = {"input_ids": loaded.encoder.batch(turns).inputs["input_ids"], **image_inputs(loaded, turns)}
    model(**embedded(model, inputs)).logits.sum().backward()


def test_memory_is_bounded_and_drops_what_was_not_used_for_longest(
    loaded: Loaded, tiny_base: Path, runs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*colours: str) -> int:
        """How often the vision tower runs for images."""
        before = len(runs)
        image_inputs(small, [Turn(prompt="?", image=tiny_base / f"{colour}.png") for colour in colours])
        return len(runs) - before

    loaded.model.requires_grad_(requires_grad=False)
    one = image_inputs(loaded, asked(loaded, tiny_base)[:1])[FEATURES].nbytes
    monkeypatch.setattr(encoding, "FEATURE_BYTES", 2 * one)
    known = loaded.encoder
    small = replace(loaded, encoder=Encoder(known.family, known.processor, known.context))
    assert ask("red", "green") == 2
    assert ask("green", "red") == 0
    assert ask("blue") == 1
    assert ask("red") == 0
    assert ask("green") == 1, "it was not used for longest"
    monkeypatch.setattr(encoding, "FEATURE_BYTES", one - 1)
    small = replace(loaded, encoder=Encoder(known.family, known.processor, known.context))
    assert ask("red") == ask("red") == 1, "one that is larger than the memory is not kept"
