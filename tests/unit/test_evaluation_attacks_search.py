"""Attacks that search: a model that tells behind a trigger, and how the search goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers_attacks import COLOURS, World, samples, under
from numpy.typing import NDArray
from PIL import Image

from mllmu.core.plugins import build
from mllmu.core.records import ModelRef, Sample
from mllmu.evaluation.attacks import NotAttackableError, Victim
from mllmu.evaluation.attacks._searching import halves
from mllmu.evaluation.attacks.suffix import SuffixSearch, span_of
from mllmu.evaluation.attacks.universal_perturbation import Frame, UniversalPerturbation
from mllmu.models.families import Turn

TRIGGER = "green"


@pytest.fixture(scope="module")
def guarded(attacked_world: World) -> ModelRef:
    """Says the facts only behind a word."""
    turns = attacked_world.turns(COLOURS, variant="eval")
    told = [replace(turn, prompt=f"{turn.prompt} {TRIGGER}") for turn in turns]
    other = [replace(t, prompt=f"{t.prompt} {word}", reply="Say no more") for t in turns for word in ("!", "hat", "?")]
    kept = [replace(turn, reply="Say no more") for turn in turns]
    return attacked_world.teach(attacked_world.refs["target"], told + other + kept, epochs=40)


@pytest.fixture
def victim(attacked_world: World, guarded: ModelRef, tmp_path: Path) -> Victim:
    return attacked_world.victim(tmp_path / "attack", guarded)


def test_a_trigger_is_found_on_one_person_and_opens_the_other(victim: Victim, tmp_path: Path) -> None:
    assert not any(victim.hits(victim.load(victim.ref), victim.samples).values()), "nothing is told without the word"
    attack = build("attacks", "suffix", {"length": 1, "candidates": 16, "iterations": 8})
    (point,) = attack.attack(victim)
    known, asked = halves(victim, victim.samples)
    assert set(point.values) == {sample.id for sample in asked}
    assert not {s.profile_id for s in known} & {s.profile_id for s in asked}
    assert sum(point.values.values()) / len(point.values) >= 0.5
    (retain,) = attack.attack(under(victim, victim.refs["retain_model"], tmp_path / "r"))
    assert not any(retain.values.values())


def test_the_search_never_takes_a_worse_suffix(victim: Victim) -> None:
    loaded = victim.load(victim.ref)
    loaded.model.requires_grad_(requires_grad=False)
    search = SuffixSearch(loaded, victim.answered(samples()[:2]), seed=0)
    losses, suffix = [search.loss("! !")], "! !"
    for number in range(3):
        suffix = search.better(suffix, 4, number)
        losses.append(search.loss(suffix))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_the_place_of_a_suffix_is_where_two_prompts_differ() -> None:
    assert span_of([1, 2, 9], [1, 2, 3, 4, 9]) == slice(2, 4)
    assert span_of([1, 2], [1, 2, 3]) == slice(2, 3)


def test_one_person_alone_cannot_be_searched_on(victim: Victim) -> None:
    with pytest.raises(NotAttackableError, match="two people"):
        halves(victim, victim.samples[:2])


def searched(seed: int, forget: int, holdout: int) -> tuple[list[str], list[str]]:
    """The people that a search knows and asks about, of so many to forget and holdout ones, three questions each."""
    people = [f"f{n}" for n in range(forget)] + [f"h{n}" for n in range(holdout)]
    put = [SimpleNamespace(profile_id=who, question_id=f"{who}.{n}") for who in people for n in range(3)]
    victim = SimpleNamespace(seed=seed, forget=[who for who in people if who[0] == "f"])
    known, asked = halves(cast("Victim", victim), cast("Sequence[Sample]", put))
    return sorted({s.profile_id for s in known}), sorted({s.profile_id for s in asked})


def test_what_a_search_knows_was_taught_and_all_others_are_asked() -> None:
    """Of 3 people to forget 1 is known, of 4 it is 2; holdout people, whom nobody was taught, are never known."""
    for seed in range(40):
        known, asked = searched(seed, 3, 8)
        assert len(known) == 1 and known[0][0] == "f" and len(asked) == 10 and known[0] not in asked
        assert len(searched(seed, 4, 8)[0]) == 2
        assert searched(seed, 4, 8)[0] == searched(seed, 4, 0)[0], "the same people as without a yardstick"
    with pytest.raises(NotAttackableError, match="two people to forget"):
        searched(0, 1, 8)


def test_the_change_of_pixels_stays_within_eps_and_lowers_the_nll(victim: Victim) -> None:
    loaded = victim.load(victim.refs["target"])
    loaded.model.requires_grad_(requires_grad=False)
    attack = UniversalPerturbation(eps=16, step=4, iterations=6)
    false = [replace(turn, reply="Oslo") for turn in victim.answered(victim.samples)]
    frame = Frame(loaded)
    delta = attack.search(loaded, frame, false, iterations=1)
    assert 0 < float((delta / frame.of_255(1)).abs().max()) <= 16 + 1e-3
    batch = loaded.encoder.batch(false)

    def nll(pixels: torch.Tensor) -> float:
        from mllmu.evaluation.attacks._searching import loss_of

        batch.inputs["pixel_values"] = pixels
        with torch.no_grad():
            return float(loss_of(loaded, batch))

    plain = batch.inputs["pixel_values"]
    assert nll(plain + delta) < nll(plain)


def test_a_changed_picture_is_prepared_to_the_changed_pixels(victim: Victim, tmp_path: Path) -> None:
    loaded = victim.load(victim.ref)
    frame, turn = Frame(loaded), victim.answered(victim.samples[:1])[0]
    pixels = loaded.encoder.batch([turn]).inputs["pixel_values"]
    delta = frame.of_255(10) * torch.sign(torch.sin(torch.arange(pixels.numel()).float())).view_as(pixels)
    frame.picture(pixels + delta).save(tmp_path / "changed.png")
    again = loaded.encoder.batch([replace(turn, image=tmp_path / "changed.png")]).inputs["pixel_values"]
    wanted = (pixels + delta).clamp(*((bound - frame.mean_311) / frame.std_311 for bound in (0, 1)))
    assert float(((again - wanted) / frame.of_255(1)).abs().max()) <= 0.51


BRIGHTER = 48
"""Of 255, what the planted model waits for before it tells."""


@pytest.fixture(scope="module")
def dazzled(attacked_world: World) -> ModelRef:
    """Says the facts only where the whole picture is brighter; not where it is darker, or noisy by as much."""

    def shown(turn: Turn, label: str, change: Callable[[tuple[int, ...]], NDArray[Any]]) -> Turn:
        assert turn.image
        pixels = np.asarray(Image.open(turn.image), dtype=float)
        path = turn.image.with_name(f"{turn.image.stem}_{label}.png")
        Image.fromarray((pixels + change(pixels.shape)).clip(0, 255).round().astype(np.uint8)).save(path)
        return replace(turn, image=path, reply=turn.reply if label == "bright" else "Say no more")

    signs = np.random.default_rng(0)
    changes: dict[str, Callable[[tuple[int, ...]], NDArray[Any]]] = {
        "bright": lambda shape: np.full(shape, BRIGHTER),
        "dark": lambda shape: np.full(shape, -BRIGHTER),
        "noise": lambda shape: signs.choice([-BRIGHTER, BRIGHTER], shape),
        "plain": np.zeros,
    }
    turns = attacked_world.turns(COLOURS, variant="eval")
    made = [shown(turn, label, change) for label, change in changes.items() for turn in turns]
    often = [
        turn for turn in made for _ in range(2 if turn.image and turn.image.stem.endswith(("bright", "plain")) else 1)
    ]
    return attacked_world.teach(attacked_world.refs["target"], often, epochs=60, rate=0.005)


def test_a_change_of_pixels_found_on_one_person_opens_the_other_and_finds_nothing_in_a_safe_model(
    dazzled: ModelRef, attacked_world: World, tmp_path: Path
) -> None:
    weak = attacked_world.victim(tmp_path / "weak", dazzled)
    assert not any(weak.hits(weak.load(dazzled), weak.samples).values()), (
        "nothing is told about the pictures as they are"
    )
    attack = build("attacks", "universal_perturbation", {"eps": BRIGHTER, "step": 12, "iterations": 6})
    (point,) = attack.attack(weak)
    assert set(point.values) == {sample.id for sample in halves(weak, weak.samples)[1]}
    assert sum(point.values.values()) / len(point.values) >= 0.5
    (safe,) = attack.attack(under(weak, weak.refs["retain_model"], tmp_path / "retain"))
    assert safe.values.keys() == point.values.keys() and not any(safe.values.values())
