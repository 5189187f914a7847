"""Faults of training seen in public code: batches left out, errors swallowed, chance without seed, made-up names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers_models import load_ref, training, turns_of
from torch import Tensor

from mllmu.core import plugins
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import core
from mllmu.models.gate import Gate
from mllmu.models.layers import decoder_layers
from mllmu.models.loading import Loaded
from mllmu.models.modifiers import Experts, Modifier, Pruned
from mllmu.unlearning.base import Method, Step
from mllmu.unlearning.methods.router import RoutedAdapters
from mllmu.unlearning.probing import Probe, Saliency
from mllmu.unlearning.trainer import Sides, unlearn


def forgetting(base: Path, **changes: Any) -> Sides:
    turns = [
        replace(turn, person=turn.image.stem if turn.image else "", topic=str(n % 2))
        for n, turn in enumerate(turns_of(base))
    ]
    return Sides(**{"forget": turns[:2], "retain": turns[2:], **changes})


def trained(loaded: Loaded, method: Method, sides: Sides, folder: Path) -> dict[str, Tensor]:
    unlearn(loaded, method, sides, training(folder))
    return {name: value.detach().clone() for name, value in loaded.model.state_dict().items() if "lora_" in name}


def test_two_runs_with_draws_in_them_are_equal(tiny_base: Path, tmp_path: Path) -> None:
    method = plugins.build("methods", "idk", {"learning_rate": 1e-2, "epochs": 2})
    first, second = (
        trained(load_ref(tiny_base), method, forgetting(tiny_base), tmp_path / name) for name in ("first", "second")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(value.any() for name, value in first.items() if "lora_B" in name)


class Twice(Method):
    """Measures the retain side, then forget, then retain again; and fails in its first step."""

    source: ClassVar[str] = "ours"
    seen: ClassVar[list[list[Tensor]]] = []

    @property
    def uses_retain(self) -> bool:
        return True

    def masks(self, saliency: Saliency) -> list[Tensor] | None:
        type(self).seen = [saliency.fisher(side) for side in ("retain", "forget", "retain")]  # type: ignore[arg-type]
        return None

    def loss(self, step: Step) -> dict[str, Tensor]:
        raise ZeroDivisionError(f"in the {step.phase} step")


def test_a_side_can_be_measured_again_and_an_error_of_a_method_is_not_swallowed(
    loaded: Loaded, tiny_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(ZeroDivisionError, match="in the joint step"):
        trained(loaded, Twice(batch_size=1), forgetting(tiny_base), tmp_path)
    first, other, again = Twice.seen
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(value.any() for value in first)
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_every_turn_of_a_side_has_a_part_in_what_is_measured(tiny_base: Path, tmp_path: Path) -> None:
    turns, found = turns_of(tiny_base)[:3], []
    for measured in (turns, turns[:1], turns[1:2], turns[2:]):
        with pytest.raises(ZeroDivisionError):
            trained(load_ref(tiny_base), Twice(batch_size=1), forgetting(tiny_base, retain=measured), tmp_path)
        found.append(torch.cat([value.flatten() for value in Twice.seen[0]]))
    together, *alone = found
    assert all(value.max() > 1e-9 for value in alone)
    assert torch.allclose(together, sum(alone, torch.zeros_like(together)) / 3, rtol=1e-3, atol=1e-9)


def test_pruning_knows_every_layer_by_a_name_that_exists(loaded: Loaded, tiny_base: Path) -> None:
    sides = forgetting(tiny_base)
    probe = Probe(loaded=loaded, forget=sides.forget, retain=sides.retain, lora=None, seed=0)
    made = plugins.build("methods", "manu", {"share": 0.3, "vision": True}).modifier(probe)
    assert isinstance(made, Pruned)
    layers = dict(core(loaded.model).named_modules())
    assert sum("language_model" in name for name in made.masks) == len(decoder_layers(loaded.model))
    assert any("vision" in name for name in made.masks)
    for name, mask in made.masks.items():
        assert (mask.dtype, len(mask)) == (torch.bool, layers[name].weight.shape[1])
    assert len({tuple(mask.tolist()) for mask in made.masks.values()}) > 1, "layers differ, so their masks do"


class Closed(RoutedAdapters):
    """A router that no token passes."""

    def modifier(self, probe: Probe) -> Modifier:
        made = super().modifier(probe)
        assert isinstance(made, Experts)
        gate = Gate(made.gate.gate_RD, torch.full_like(made.gate.threshold_R, 1e9))
        factors = {
            name: (down.detach(), up.detach()) for name, down, up in zip(made.names, made.down, made.up, strict=True)
        }
        return Experts(made.settings, gate, made.owner_GR, factors)


def test_routed_adapters_train_though_no_token_of_a_step_is_routed(
    loaded: Loaded, tiny_base: Path, tmp_path: Path
) -> None:
    sides = forgetting(tiny_base)
    method = Closed(learning_rate=0.1, epochs=2, requests=1, modality="both")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    unlearn(loaded, method, sides, training(tmp_path, seed=0))
    after = core(loaded.model).state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name in after)
    plain, again = load_ref(tiny_base), load_ref(tiny_base, str(tmp_path), root=tmp_path)
    batch = plain.encoder.batch(turns_of(tiny_base))
    with torch.no_grad():
        first, second = (run_forward(each.model, batch).logits_NV for each in (plain, again))
    assert torch.equal(first, second), "nothing is routed, so nothing changes"
