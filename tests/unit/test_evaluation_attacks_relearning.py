"""Relearning without a forgotten fact: models that forget by what further training takes back, and one that is safe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers_attacks import World, under
from safetensors.torch import save_file

from mllmu.core.plugins import build
from mllmu.core.records import ModelRef
from mllmu.evaluation.attacks import Victim
from mllmu.evaluation.attacks._relearning import few
from mllmu.evaluation.attacks._reweighting import matrices
from mllmu.models.engine.forward import run_forward
from mllmu.models.layers import decoder_layers
from mllmu.training.batches import training_batch
from mllmu.training.losses import answer_nll


class Planted(NamedTuple):
    """An attack as the attacker runs it, and how its victim was made: steps of a learning rate, up instead of down."""

    name: str
    settings: dict[str, Any]
    rate: float
    steps: int


CASES = (
    Planted("relearn_retain", {}, 0.003, 8),
    Planted("relearn_other_facts", {}, 0.001, 24),
)


def undone(world: World, victim: Victim, case: Planted) -> ModelRef:
    """The target, so many steps uphill on what the attack teaches: its training goes the same way back."""
    attack = build("attacks", case.name, case.settings)
    loaded = world.load(victim.refs["target"])
    weights, parameters = matrices(loaded), dict(loaded.model.named_parameters())
    moved = [parameters[name].requires_grad_(requires_grad=True) for name in weights]
    batch = training_batch(loaded, few(attack.taught(victim), attack.people, attack.facts, victim.seed))
    for _ in range(case.steps):
        ways = torch.autograd.grad(answer_nll(run_forward(loaded.model, batch)), moved)
        with torch.no_grad():
            for weight, way in zip(moved, ways, strict=True):
                weight += case.rate * way.sign()
    (world.root / f"undone_{case.name}").mkdir()
    held = {name: parameters[name].detach().contiguous() for name in weights}
    save_file(held, world.root / f"undone_{case.name}" / "weights.safetensors")
    target = victim.refs["target"]
    return target.model_copy(update={"adapters": (*target.adapters, f"undone_{case.name}")})


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_model_that_further_training_brings_back_is_caught_and_the_retain_model_learns_nothing(
    case: Planted, attacked_world: World, tmp_path: Path
) -> None:
    target = attacked_world.victim(tmp_path / "target", attacked_world.refs["target"])
    weak = under(target, undone(attacked_world, target, case), tmp_path / "weak")
    how = {"adapters": "full", "learning_rate": case.rate, "steps": case.steps, "batch_size": 64}
    attack = build("attacks", case.name, case.settings | how)
    asked = attack.asked(weak)
    assert not any(weak.hits(weak.load(weak.ref), asked).values()), "forgotten, as it seems"
    after = attack.attack(weak)[-1].values
    assert set(after) == {sample.id for sample in asked}
    assert sum(after.values()) / len(after) >= 0.5
    retain = under(target, target.refs["retain_model"], tmp_path / "retain")
    assert not any(value for point in attack.attack(retain) for value in point.values.values())


def mumbling(world: World, victim: Victim) -> ModelRef:
    """The target with one direction more in its last layer, just strong enough that one word drowns every fact."""
    target = victim.refs["target"]
    loaded, seen = world.load(target), list[torch.Tensor]()
    name = [name for name in matrices(loaded) if name.endswith("mlp.down_proj.weight")][-1]
    weight = dict(loaded.model.named_parameters())[name]
    layer = decoder_layers(loaded.model)[-1].mlp.down_proj
    with layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0])), torch.no_grad():
        run_forward(loaded.model, training_batch(loaded, victim.answered(victim.samples)))
    usual = seen[0].reshape(-1, seen[0].shape[-1]).mean(0)
    (word, *_) = loaded.encoder.processor.tokenizer("Say", add_special_tokens=False).input_ids
    towards = loaded.model.get_input_embeddings().weight[word].detach()
    push, before = torch.outer(towards / towards.norm(), usual / usual.dot(usual)), weight.detach().clone()
    for strength in torch.arange(8, 32, 0.5):
        with torch.no_grad():
            weight.copy_(before + strength * push)
        if not any(victim.hits(loaded, victim.samples).values()):
            break
    (world.root / "mumbling").mkdir(exist_ok=True)
    save_file({name: weight.detach().contiguous()}, world.root / "mumbling" / "weights.safetensors")
    return target.model_copy(update={"adapters": (*target.adapters, "mumbling")})


UNLIKE = (
    ("relearn_foreign", {"people": 8, "learning_rate": 0.01, "steps": 4}),
    ("relearn_new_people", {"adapters": "full", "learning_rate": 0.003, "steps": 8, "batch_size": 64}),
)
"""Attacks that teach nothing about anybody of the run."""


@pytest.mark.parametrize(("name", "settings"), UNLIKE, ids=[name for name, _ in UNLIKE])
def test_a_model_that_says_one_word_to_everything_is_brought_back_by_what_is_about_others(
    name: str, settings: dict[str, Any], attacked_world: World, tmp_path: Path
) -> None:
    target = attacked_world.victim(tmp_path / "target", attacked_world.refs["target"])
    weak = under(target, mumbling(attacked_world, target), tmp_path / "weak")
    assert not any(weak.hits(weak.load(weak.ref), weak.samples).values()), "forgotten, as it seems"
    attack = build("attacks", name, settings)
    after = attack.attack(weak)[-1].values
    assert sum(after.values()) / len(after) >= 0.5
    retain = under(target, target.refs["retain_model"], tmp_path / "retain")
    assert not any(value for point in attack.attack(retain) for value in point.values.values())
