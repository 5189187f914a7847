"""A step run in parts is the step run at once, whatever the loss; so is a method, and its memory is that of a part."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import LORA, load_ref, training, turns_of
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from mllmu.core import plugins
from mllmu.models.engine.forward import Forward
from mllmu.models.families import Turn
from mllmu.models.layers import run_hidden
from mllmu.models.loading import Loaded, add_trainable
from mllmu.training import distributed
from mllmu.training.batches import forward, run_step, training_batch
from mllmu.unlearning.trainer import Sides, unlearn


def odd_loss(passed: Forward) -> Tensor:
    """No sum over rows or tokens: every part depends on all others."""
    spread = passed.row_logp_B / passed.row_length_B
    return spread.logsumexp(0) + passed.logits_NV.square().mean().sqrt() + passed.token_logp_N.std()


def gradients(base: Path, at_once: int | None, *, dropout: float = 0.0, **settings: Any) -> tuple[Tensor, list[Tensor]]:
    loaded = load_ref(base, **settings)
    lora = LORA.model_copy(update={"dropout": dropout})
    model = add_trainable(loaded.model, loaded.encoder.family, lora, seed=1)
    weights = [p for p in model.parameters() if p.requires_grad]
    with torch.no_grad():
        for number, weight in enumerate(weights):  # the second factors start at zero, which hides the first ones
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) / 10)
    model.train()
    torch.manual_seed(7)
    loss = odd_loss(forward(model, turns_of(base), partial(training_batch, loaded), at_once=at_once))
    return loss.detach(), list(torch.autograd.grad(loss, weights))


@pytest.mark.parametrize("at_once", [1, 4, 5, 6])
@pytest.mark.parametrize(
    "settings", [{}, {"packing": "off"}, {"gradient_checkpointing": True}], ids=["packed", "plain", "checkpointing"]
)
def test_a_step_in_parts_has_the_loss_and_gradient_of_the_whole(
    tiny_base: Path, at_once: int, settings: dict[str, Any]
) -> None:
    loss, expected = gradients(tiny_base, None, **settings)
    value, found = gradients(tiny_base, at_once, **settings)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    assert max(g.abs().max() for g in expected) > 1e-2
    for one, two in zip(expected, found, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_the_second_run_of_a_part_drops_what_the_first_dropped(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_activations(run: Any, *tensors: Tensor, use_reentrant: bool) -> Tensor:
        return run(*tensors)

    loss, found = gradients(tiny_base, 2, dropout=0.5)
    monkeypatch.setattr(distributed, "checkpoint", keep_activations)
    once, expected = gradients(tiny_base, 2, dropout=0.5)
    assert loss == once
    assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))
    assert gradients(tiny_base, 2)[0] != loss


def test_a_step_in_parts_keeps_no_activations(tiny_base: Path) -> None:
    def kept_bytes(at_once: int | None) -> int:
        loaded, kept = load_ref(tiny_base), dict[int, int]()

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        loaded.model.requires_grad_(requires_grad=False)
        model = add_trainable(loaded.model, loaded.encoder.family, LORA, seed=1)
        owned = {p.untyped_storage().data_ptr() for p in model.parameters()}
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            passed = forward(model, turns_of(tiny_base), partial(training_batch, loaded), at_once=at_once)
        del passed
        return sum(size for place, size in kept.items() if place not in owned)

    assert kept_bytes(2) < kept_bytes(None) / 10


def test_rows_and_hidden_states_belong_to_their_turns(loaded: Loaded, tiny_base: Path) -> None:
    turns = turns_of(tiny_base)
    turns = [turns[place] for place in (3, 0, 5, 1, 4, 2)]
    make = partial(training_batch, loaded)
    with torch.no_grad():
        whole, parts = (forward(loaded.model, turns, make, at_once=number) for number in (None, 2))
        torch.testing.assert_close(parts.row_logp_B, whole.row_logp_B, rtol=1e-5, atol=1e-5)
        assert parts.row_length_B.tolist() == whole.row_length_B.tolist()
        assert parts.row_length_B.tolist() == [len(loaded.encoder.reply(turn.reply)) for turn in turns]
        run = partial(run_hidden, loaded.model, layer=0)
        one, two = (run_step(run, turns, make, number)[0] for number in (None, 4))
    assert one.shape == two.shape
    torch.testing.assert_close(two.norm(dim=1).sort().values, one.norm(dim=1).sort().values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["kl_min", "sam_npo", "dpo", "rmu", "salun"])
def test_a_method_in_parts_trains_the_same_weights(tiny_base: Path, tmp_path: Path, name: str) -> None:
    def trained(at_once: int | None) -> list[Tensor]:
        loaded, turns = load_ref(tiny_base), turns_of(tiny_base)
        method = plugins.build("methods", name, {"epochs": 2, "batch_size": 3, "learning_rate": 1e-3})
        sides = Sides(forget=turns[:4], retain=turns[2:])
        unlearn(loaded, method, sides, training(tmp_path / str(at_once), micro_batch_size=at_once))
        return [p.detach().clone() for n, p in loaded.model.named_parameters() if "lora" in n]

    for one, two in zip(trained(None), trained(2), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def test_a_part_is_no_larger_than_asked(loaded: Loaded, tiny_base: Path) -> None:
    sizes = []

    def make(turns: Sequence[Turn]) -> Any:
        sizes.append(len(turns))
        return training_batch(loaded, turns)

    with torch.no_grad():
        forward(loaded.model, turns_of(tiny_base), make, at_once=4)
        forward(loaded.model, turns_of(tiny_base), make, at_once=9)
    assert sizes == [3, 3, 6]
