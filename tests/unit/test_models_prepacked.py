"""Laid-out weights give the same products, are used for an evaluation alone, and never stand between a gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import sample
from torch import nn

from mllmu.config.recipe import Lora
from mllmu.models import devices
from mllmu.models.engine import forward
from mllmu.models.engine.forward import prepacked
from mllmu.models.engine.respond import respond
from mllmu.models.families.llava import Llava
from mllmu.models.loading import Loaded, add_trainable

TARGETS = Llava.lora_targets


def replaced(model: Any) -> set[str]:
    return {name for name, module in model.named_modules() if "forward" in module.__dict__}


class Small(nn.Module):
    """A model of one layer."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.lm_head = head


def lays_out() -> bool:
    with prepacked(small := Small(nn.Linear(2, 2)), ""):
        return bool(replaced(small))


pytestmark = pytest.mark.skipif(not lays_out(), reason="this torch or processor lays nothing out")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 90])
def test_a_product_is_that_of_the_layer(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(24, 70, bias=bias), torch.randn(1, rows, 24)
    with torch.inference_mode():
        expected = layer(x)
        with prepacked(small := Small(layer), ""):
            assert replaced(small) == {"lm_head"}
            torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_the_language_model_is_ready_while_questions_are_answered_and_as_before_behind(
    loaded: Loaded, tiny_base: Path
) -> None:
    before = replaced(loaded.model)
    answers = respond(loaded, [[sample(0, image="red.png")], [sample(1)]], image_folder=tiny_base)
    next(answers)
    during = replaced(loaded.model) - before
    assert "lm_head" in during
    assert any(name.endswith("down_proj") for name in during)
    assert not any("vision" in name for name in during)
    list(answers)
    assert replaced(loaded.model) == before


def test_nothing_is_laid_out_for_replies_one_by_one_or_in_other_precisions(loaded: Loaded, tiny_base: Path) -> None:
    before = replaced(loaded.model)
    answers = respond(loaded, [[sample(0)], [sample(1)]], image_folder=tiny_base, share=False)
    next(answers)
    assert replaced(loaded.model) == before
    with prepacked(loaded.model.to(torch.bfloat16), TARGETS):
        assert replaced(loaded.model) == before


def test_a_gradient_goes_through_the_layer_itself(loaded: Loaded) -> None:
    """The kernel has no backward pass; adapters around the layers get the gradient that they always get."""
    model = add_trainable(loaded.model, loaded.family, Lora(dropout=0.0), seed=0)
    ids, found = torch.tensor([[5, 6, 7]]), []
    for at_hand in (True, False):
        model.zero_grad()
        with prepacked(model, TARGETS) if at_hand else torch.enable_grad():
            assert bool(replaced(model)) is at_hand
            model(input_ids=ids, labels=ids).loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert found[0]
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


def test_little_memory_is_left_alone_and_the_output_layer_comes_first(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = loaded.model.lm_head.weight.nbytes
    monkeypatch.setattr(forward, "UNCHECKED", 0)
    for free, expected in ((head - 1, set()), (head, {"lm_head"})):
        monkeypatch.setattr(devices, "free_bytes", lambda _, free=free: free / devices.PACKED_SHARE)
        with prepacked(loaded.model, TARGETS):
            assert replaced(loaded.model) == expected
