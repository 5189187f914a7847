"""Drawn replies and beams: a model that tells nearly as often as it does not, and one that never knew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers_attacks import COLOURS, World, under

from mllmu.core.plugins import build
from mllmu.core.records import ModelRef
from mllmu.evaluation.attacks import Victim


@pytest.fixture(scope="module")
def torn(attacked_world: World) -> ModelRef:
    """Learned to say something else three times for every two times it says the facts."""
    turns = attacked_world.turns(COLOURS, variant="eval")
    other = [replace(turn, reply="Say no more") for turn in turns]
    return attacked_world.teach(
        attacked_world.refs["target"], [*turns, *turns, *other, *other, *other], epochs=40, rate=0.003
    )


@pytest.fixture
def victim(attacked_world: World, torn: ModelRef, tmp_path: Path) -> Victim:
    return attacked_world.victim(tmp_path / "attack", torn)


@pytest.mark.parametrize(("name", "settings"), [("sampling", {"replies": 16}), ("beam", {"beams": 4})])
def test_what_is_said_second_is_found_by_more_replies(
    name: str, settings: dict[str, int], victim: Victim, tmp_path: Path
) -> None:
    plain = victim.hits(victim.load(victim.ref), victim.samples)
    assert sum(plain.values()) <= 1, "the likeliest reply tells nothing"
    attack = build("attacks", name, settings)
    (point,) = attack.attack(victim)
    assert sum(point.values.values()) - sum(plain.values()) >= 2, "half of the four facts"
    assert attack.attack(victim) == [point], "the same seed, the same draws"
    (retain,) = attack.attack(under(victim, victim.refs["retain_model"], tmp_path / "r"))
    assert not any(retain.values.values())
