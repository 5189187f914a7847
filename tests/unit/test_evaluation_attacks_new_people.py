"""Fine-tuning that goes on with new people: who they are, and that it teaches nothing about the others."""

from __future__ import annotations

from pathlib import Path

from helpers_attacks import World, under

from mllmu.core.plugins import build
from mllmu.evaluation.attacks.relearn_new_people import invented_people


def test_new_people_are_of_nobody_in_the_data_and_have_portraits(attacked_world: World, tmp_path: Path) -> None:
    victim = attacked_world.victim(tmp_path / "attack", attacked_world.weak)
    people = invented_people(victim, 5)
    known = {profile.id for profile in victim.data.profiles} | set(victim.data.names.values())
    assert len({person.name for person in people}) == 5 and not known & {p.id for p in people} | known & {
        p.name for p in people
    }
    attack = build("attacks", "relearn_new_people", {"new_people": 5})
    turns = attack.taught(victim)
    assert {turn.person for turn in turns} == {person.id for person in people}
    shown = {turn.image for turn in turns if turn.image}
    assert len(shown) == 5 and all(path.is_file() for path in shown)
    assert attack.taught(victim) == turns, "the same people every time"


def test_a_model_that_never_knew_them_learns_nothing_about_the_forgotten(attacked_world: World, tmp_path: Path) -> None:
    weak = attacked_world.victim(tmp_path / "weak", attacked_world.weak)
    retain = under(weak, weak.refs["retain_model"], tmp_path / "retain")
    attack = build("attacks", "relearn_new_people", {"new_people": 4, "steps": 2, "batch_size": 4})
    points = attack.attack(retain)
    assert [point.step for point in points] == [1, 2]
    assert all(not any(point.values.values()) for point in points)
