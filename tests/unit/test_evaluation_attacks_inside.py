"""Attacks that read hidden states: a model that only the output hides, and one that never knew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_attacks import KEPT, World, under
from safetensors.torch import save_file

from mllmu.core.plugins import build
from mllmu.core.records import ModelRef
from mllmu.evaluation.attacks import NotAttackableError, Victim
from mllmu.evaluation.attacks.probe import between_halves, probed
from mllmu.evaluation.inside import AttributeProbe, ridge_choices


@pytest.fixture
def victim(attacked_world: World, tmp_path: Path) -> Victim:
    return attacked_world.victim(tmp_path / "attack", attacked_world.refs["target"])


@pytest.fixture(scope="module")
def hidden(attacked_world: World) -> ModelRef:
    """The target whose last layer writes nothing but noise: what the layer before holds is all there."""
    world = attacked_world
    weights = dict(world.load(world.refs["target"]).model.named_parameters())
    last = max(name for name in weights if ".layers." in name and "down_proj" in name)
    torch.manual_seed(0)
    (world.root / "hidden").mkdir()
    noise = 30 * torch.randn_like(weights[last])
    save_file({last: noise.detach()}, world.root / "hidden" / "weights.safetensors")
    return world.refs["target"].model_copy(update={"adapters": (*world.refs["target"].adapters, "hidden")})


def mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def test_patching_reads_all_of_the_target_and_nothing_of_the_retain_model(victim: Victim, tmp_path: Path) -> None:
    attack = build("attacks", "patching", {})
    (target,) = attack.attack(victim)
    (retain,) = attack.attack(under(victim, victim.refs["retain_model"], tmp_path / "r"))
    assert retain.values == retain.before == target.before
    assert mean(target.values) > 0.8, "its own states change nothing"
    assert mean(retain.values) < 0.5 * mean(target.values)


def test_patching_recovers_what_only_the_last_layer_hides(victim: Victim, hidden: ModelRef, tmp_path: Path) -> None:
    weak = under(victim, hidden, tmp_path / "h")
    assert not any(weak.hits(weak.load(hidden), weak.samples).values())
    (target,), (point,) = (build("attacks", "patching", {}).attack(each) for each in (victim, weak))
    recovery = (mean(point.values) - mean(point.before)) / (mean(target.values) - mean(point.before))
    # one of the two layers is the target's, and the other noise
    assert recovery == pytest.approx(0.5, abs=0.2)


def test_the_logit_lens_reads_what_the_last_layer_hides(victim: Victim, hidden: ModelRef, tmp_path: Path) -> None:
    attack = build("attacks", "logit_lens", {"k": 1})
    (target,) = attack.attack(victim)
    assert mean(target.before) == 1.0, "the last layer says every token"
    (point,) = attack.attack(under(victim, hidden, tmp_path / "h"))
    assert mean(point.values) >= mean(point.before)


def test_too_few_people_give_no_probe_and_a_reason(victim: Victim) -> None:
    with pytest.raises(NotAttackableError, match="five retained people"):
        build("attacks", "probe", {}).attack(victim)


def test_a_probe_reads_a_value_from_the_layer_chosen_among_retained_people(
    victim: Victim, attacked_world: World
) -> None:
    """The value is whether the name is in the question: any model holds it, and its control does not."""
    turn = attacked_world.turns([KEPT], variant="eval")[0]
    texts = [f"Ada Bell {word}" for word in ["lives", "works", "born", "Riga", "baker", "hat", "red", "blue"]]
    texts += [f"Tallinn hat {word}" for word in ["lives", "works", "born", "Riga", "baker", "hat", "red", "blue"]]
    turns = [replace(turn, prompt=text, person=str(number)) for number, text in enumerate(texts)]
    tested = [number % 4 == 3 for number in range(16)]
    probe = AttributeProbe("name", turns, [0] * 8 + [1] * 8, tested)
    found = probed(victim.load(victim.ref), probe, victim)
    assert [person for person, _, _ in found] == ["3", "7", "11", "15"]
    assert all(right == 1.0 for _, right, _ in found)


def test_halves_are_read_by_each_other() -> None:
    classes = torch.tensor([0, 0, 1, 1] * 4)
    signal = classes.double()[:, None] * torch.tensor([[1.0, 0.0]]).double()
    torch.manual_seed(0)
    noise = 0.01 * torch.randn(16, 2).double()
    assert between_halves(signal + noise, classes) == 1.0
    assert between_halves(noise, classes) < 0.9
    assert ridge_choices(signal + noise, classes, signal).tolist() == classes.tolist()
