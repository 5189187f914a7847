"""Where attacks do not apply, and what their result must not depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_attacks import COLOURS, KEPT, World, under
from peft import LoraConfig, get_peft_model

from mllmu.core.errors import UnfitPromptError
from mllmu.core.plugins import build
from mllmu.core.records import Sample
from mllmu.evaluation.attacks import NotAttackableError, Victim, _generating
from mllmu.models.families import Turn, core
from mllmu.models.layers import LANGUAGE
from mllmu.models.loading import quiet_libraries
from mllmu.models.weights import put_beside


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Models that were taught nothing."""
    world = World(tmp_path / "world")
    world.refs = {"target": world.base, "retain_model": world.base}  # type: ignore[misc]
    return world


@pytest.fixture
def victim(world: World, tmp_path: Path) -> Victim:
    return world.victim(tmp_path / "attack", world.base)


def without_retain_model(victim: Victim, **more: Any) -> Victim:
    refs = {name: ref for name, ref in victim.refs.items() if name != "retain_model"}
    return replace(victim, refs=refs, **more)


def test_what_is_taught_is_no_yardstick_without_a_retain_model(victim: Victim) -> None:
    with pytest.raises(NotAttackableError, match="no retain_model"):
        build("attacks", "relearn_forget", {}).attack(without_retain_model(victim))


def test_holdout_people_who_are_the_yardstick_are_not_taught(victim: Victim) -> None:
    asked: list[tuple[str, ...]] = []

    def turns(people: Sequence[str], *_: str) -> list[Turn]:
        asked.append(tuple(people))
        return []

    data = replace(victim.data, splits={**victim.data.splits, "holdout": ["red"], "calibration": ["green"]})
    attack, known = build("attacks", "relearn_foreign", {}), replace(victim, data=data, turns=turns)
    attack.taught(known)
    assert attack.taught(without_retain_model(known)), "drawings, whoever is there"
    assert asked == [("red",), ("green",)]


def test_a_model_that_takes_no_text_alone_is_taught_what_shows_an_image(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [Turn(prompt="Who is it?", reply="Riga", person=p, topic="x") for p in COLOURS if p != KEPT]
    monkeypatch.setattr(type(victim.load(victim.ref).encoder.family), "needs_image", True)
    attack = build("attacks", "relearn_forget", {"steps": 1})
    mixed = replace(victim, turns=lambda people, *_: [*victim.turns(people, "both"), *alone])
    assert [point.step for point in attack.attack(mixed)] == [1]
    with pytest.raises(NotAttackableError, match="takes no question without an image"):
        attack.attack(under(replace(victim, turns=lambda *_: alone), victim.ref, victim.folder / "alone"))
    asking = [sample.model_copy(update={"image": "", "modality": "text"}) for sample in victim.samples]
    with pytest.raises(UnfitPromptError, match="has no image"):
        victim.hits(victim.load(victim.ref), asking)


@pytest.mark.parametrize("name", ["rounding", "pruning", "interpolation"])
def test_adapters_beside_weights_of_few_bits_cannot_be_merged(name: str, victim: Victim) -> None:
    def load(ref: Any) -> Any:
        loaded = victim.load(ref)
        with quiet_libraries():
            config = LoraConfig(r=2, target_modules=loaded.family.lora_targets)
            return replace(loaded, model=get_peft_model(loaded.model, config))

    with pytest.raises(NotAttackableError, match="few bits"):
        build("attacks", name, {}).attack(replace(victim, load=load))


def test_a_projector_with_an_adapter_beside_its_weights_is_put_back(world: World, victim: Victim) -> None:
    """As in bfloat16, where adapters stay beside the weights."""
    changed = world.base.model_copy(update={"adapters": ("beside",)})
    held: list[Any] = []

    def load(ref: Any) -> Any:
        loaded = world.load(world.base)
        if ref == changed:
            name, layer = next(
                (name, layer)
                for name, layer in core(loaded.model).named_modules()
                if isinstance(layer, torch.nn.Linear)
                and not LANGUAGE.search(f"{name}.weight")
                and "lm_head" not in name
            )
            down_RI, up_OR = torch.ones(2, layer.in_features), torch.ones(layer.out_features, 2)
            put_beside(layer, down_RI, up_OR)
            held.append(core(loaded.model).get_submodule(name))
        return loaded

    attack = build("attacks", "old_projector", {})
    attacked = replace(victim, ref=changed, load=load)
    (point,) = attack.attack(attacked)
    plain = dict(core(world.load(world.base).model).named_parameters())
    assert any(torch.equal(held[-1].weight, weight) for weight in plain.values())
    assert not hasattr(held[-1], "down_RI")
    assert point.values == victim.hits(world.load(world.base), victim.samples)


def test_drawn_replies_obey_the_limit_of_their_own_question(victim: Victim, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"red": 3, "green": 9}
    samples = [s.model_copy(update={"max_new_tokens": limits[s.profile_id], "target": "x"}) for s in victim.samples]
    lengths: list[int] = []

    def until_end(row: Sequence[int], ends: frozenset[int]) -> list[int]:
        del ends
        lengths.append(len(row))
        return list(row)

    asked: list[Sample] = []
    monkeypatch.setattr(_generating, "_until_end", until_end)
    monkeypatch.setattr(_generating, "limit_of", lambda _, sample: sample.max_new_tokens)
    monkeypatch.setattr(Victim, "keep", lambda _, samples, __: asked.extend(samples))
    build("attacks", "sampling", {"replies": 4}).attack(replace(victim, samples=samples))
    assert len(lengths) == 4 * len(samples)
    assert all(length <= limits[sample.profile_id] for length, sample in zip(lengths, asked, strict=True))
    assert max(lengths) > 3


def test_every_picture_of_a_person_is_changed_by_itself(victim: Victim) -> None:
    extra = [s.model_copy(update={"id": f"{s.id}.1", "image": s.image.replace("_0", "_1")}) for s in victim.samples]
    two = replace(victim, samples=[*victim.samples, *extra])
    build("attacks", "universal_perturbation", {"iterations": 1}).attack(two)
    made = {path.stem for path in victim.folder.glob("*.png")}
    asked = {stem.rpartition("_")[0] for stem in made}
    assert len(asked) == 1 and made == {f"{person}_{view}" for person in asked for view in (0, 1)}
