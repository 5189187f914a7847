"""A step that does not fit into memory is divided and repeated: the same result, and the choice in the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import LORA, Watcher, load_ref, training, turns_of
from safetensors.torch import load_file
from torch import Tensor

from mllmu.config.recipe import Finetune
from mllmu.core import plugins
from mllmu.core.errors import ModelError
from mllmu.core.process import metered
from mllmu.models.devices import recompute_activations, recomputes
from mllmu.models.engine import forward as forwarding
from mllmu.models.families import Batch, core
from mllmu.models.loading import add_trainable
from mllmu.models.modifiers import TENSOR_FILE
from mllmu.training import fitting
from mllmu.training.batches import training_batch
from mllmu.training.finetune import finetune
from mllmu.unlearning.trainer import Sides, unlearn

DROPPING = LORA.model_copy(update={"dropout": 0.3})


class Small:
    """A device that has no room for more than some rows at once, in the forward or in the backward pass.

    With ``kept`` it has none for activations that are kept, with ``training`` enough for passes without gradient.
    """

    def __init__(
        self, rows: int, *, backward: bool, error: Callable[[], Exception], kept: bool = False, training: bool = False
    ) -> None:
        self.rows, self.backward, self.error, self.kept, self.training = rows, backward, error, kept, training
        self.failed = 0

    def fail(self, *_: Any) -> None:
        self.failed += 1
        raise self.error()

    def run(self, body: Any, model: Any, batch: Batch) -> Tensor:
        hidden: Tensor = body(model, batch)
        if self.training and not hidden.requires_grad:
            return hidden
        if batch.num_replies > self.rows or (self.kept and not recomputes(core(model))):
            if not self.backward:
                self.fail()
            if hidden.requires_grad:
                hidden.register_hook(self.fail)
        return hidden

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Small:
        monkeypatch.setattr(forwarding, "run_body", partial(self.run, forwarding.run_body))
        return self


def cuda_error() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def trained(base: Path, folder: Path, name: str, **settings: Any) -> tuple[list[Tensor], dict[str, Any], Watcher]:
    """The weights after fine-tuning or a method on three questions a step, its facts, and what was said."""
    loaded, turns, watcher, facts = load_ref(base), turns_of(base), Watcher(), dict[str, Any]()
    options = training(folder, lora=DROPPING, progress=watcher, **({"recompute": "auto"} | settings))
    with metered(facts):
        if name == "finetune":
            finetune(loaded, turns, Finetune(epochs=2, learning_rate=1e-3, batch_size=3), options)
        else:
            method = plugins.build("methods", name, {"epochs": 2, "batch_size": 3, "learning_rate": 1e-3})
            unlearn(loaded, method, Sides(forget=turns[:4], retain=turns[2:]), options)
    return [p.detach().clone() for n, p in loaded.model.named_parameters() if "lora" in n], facts, watcher


@pytest.mark.parametrize("name", ["finetune", "npo", "sam_npo", "pdu"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_a_step_that_does_not_fit_is_repeated_in_parts(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, backward: bool
) -> None:
    whole, facts, quiet = trained(tiny_base, tmp_path / "whole", name)
    assert (facts["micro_batch_size"], facts["gradient_checkpointing"]) == (3, False)
    assert not [note for note in quiet.notes if "memory" in note]
    error = cuda_error if backward else MemoryError
    small = Small(1, backward=backward, error=error).install(monkeypatch)
    parts, facts, watcher = trained(tiny_base, tmp_path / "parts", name)
    assert small.failed >= 3, "kept, computed again, and two at once"
    assert (facts["micro_batch_size"], facts["gradient_checkpointing"]) == (1, True)
    assert len([note for note in watcher.notes if "did not fit into memory" in note]) == 3
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recompute", ["auto", True])
@pytest.mark.parametrize("name", ["steering", "router"])
def test_a_modifier_is_trained_in_parts_and_nothing_is_computed_again(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, recompute: bool | str
) -> None:
    def modifier(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], Watcher]:
        loaded, watcher, facts = load_ref(tiny_base), Watcher(), dict[str, Any]()
        if recompute is True:
            recompute_activations(loaded.model)
        turns = [replace(turn, person=str(n // 2), topic=str(n % 2)) for n, turn in enumerate(turns_of(tiny_base))]
        method = plugins.build("methods", name, {"epochs": 2, "batch_size": 3, "learning_rate": 1e-2})
        with metered(facts):
            sides = Sides(forget=turns[:4], retain=turns[2:])
            unlearn(loaded, method, sides, training(folder, progress=watcher, recompute=recompute))
        return load_file(folder / TENSOR_FILE), facts, watcher

    whole, facts, _ = modifier(tmp_path / "whole")
    assert (facts["micro_batch_size"], facts["gradient_checkpointing"]) == (3, False)
    small = Small(1, backward=False, error=cuda_error, training=True).install(monkeypatch)
    parts, facts, watcher = modifier(tmp_path / "parts")
    assert small.failed == 2, "three and two at once"
    assert (facts["micro_batch_size"], facts["gradient_checkpointing"]) == (1, False)
    assert len([note for note in watcher.notes if note.endswith("at once; the result is the same.")]) == 2
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-3, atol=1e-5)


def test_activations_are_given_up_before_the_step_is_cut(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _, _ = trained(tiny_base, tmp_path / "whole", "finetune")
    Small(99, backward=True, error=cuda_error, kept=True).install(monkeypatch)
    again, facts, _ = trained(tiny_base, tmp_path / "again", "finetune")
    assert (facts["micro_batch_size"], facts["gradient_checkpointing"]) == (3, True)
    assert all(torch.equal(one, two) for one, two in zip(whole, again, strict=True))
    with pytest.raises(ModelError, match=r"with 1 question\(s\) at once.*gradient_checkpointing: true"):
        trained(tiny_base, tmp_path / "never", "finetune", recompute=False)


def test_a_single_question_that_does_not_fit_says_what_to_do(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Small(0, backward=False, error=cuda_error).install(monkeypatch)
    with pytest.raises(ModelError, match=r"^x: out of memory in training with 1 question\(s\) at once\. Set .*nf4"):
        trained(tiny_base, tmp_path, "finetune")


def test_another_error_is_raised_at_once(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Small(0, backward=False, error=lambda: RuntimeError("shapes differ")).install(monkeypatch)
    with pytest.raises(RuntimeError, match="shapes differ"):
        trained(tiny_base, tmp_path, "finetune")
    assert small.failed == 1


def test_divisions_give_up_activations_first() -> None:
    assert list(fitting.divisions(4, None, recompute="auto")) == [(4, False), (4, True), (2, True), (1, True)]
    assert list(fitting.divisions(8, 2, recompute=False)) == [(2, False), (1, False)]
    assert list(fitting.divisions(3, 5, recompute=True)) == [(3, True), (2, True), (1, True)]


def test_the_division_is_the_first_that_fits_the_free_memory(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, turns = load_ref(tiny_base), turns_of(tiny_base)
    model = add_trainable(loaded.model, loaded.family, LORA, seed=1)
    outlined = fitting.outline(core(model).config, loaded.family, packs=loaded.packs)
    make = partial(training_batch, loaded)
    shape = fitting.shape_of(make(turns))

    def needed(*, recompute: bool) -> float:
        return fitting.step_bytes(outlined, LORA, [shape], whole=True, logits=0, reference=False, recompute=recompute)

    def chosen(free: float) -> tuple[int | None, bool | str, bool]:
        options = training(tiny_base / "x", batch_size=6, recompute="auto")
        monkeypatch.setattr(fitting, "room", lambda *_: free)
        fitting.choose(loaded, model, options, [turns], make)
        return options.micro_batch_size, options.recompute, recomputes(core(model))

    kept, again = needed(recompute=False), needed(recompute=True)
    assert again < kept
    assert chosen(kept) == (None, "auto", False)
    assert chosen(kept - 1) == (None, True, True)
    assert chosen(kept) == (None, "auto", False)
    assert chosen(0) == (1, True, True)
