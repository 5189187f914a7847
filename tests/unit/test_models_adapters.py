"""What trains, what is saved, and that a saved model is the one that was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import LORA, load_ref, logits, nll, turns_of
from peft import PeftModel
from safetensors.torch import load_file

from mllmu.config.recipe import Lora
from mllmu.core.errors import ModelError, RunStoreError
from mllmu.models import weights
from mllmu.models.engine.forward import run_forward
from mllmu.models.loading import WEIGHTS_FILE, Loaded, add_trainable, quiet_libraries, save_trained, without_adapter
from mllmu.training.losses import answer_nll

WAYS = pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def teach(loaded: Loaded, base: Path, lora: Lora | None, *, steps: int = 3, seed: int = 1) -> Any:
    """A few plain gradient steps on six turns."""
    model = add_trainable(loaded.model, loaded.family, lora, seed=seed)
    optimizer = torch.optim.Adam(trained(model).values(), lr=1e-2)
    for _ in range(steps):
        answer_nll(run_forward(model, loaded.encoder.batch(turns_of(base)))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@WAYS
def test_only_layers_of_the_language_model_train(loaded: Loaded, tiny_base: Path, lora: Lora | None) -> None:
    before = {name: p.clone() for name, p in loaded.model.named_parameters()}
    model = add_trainable(loaded.model, loaded.family, lora, seed=0)
    names = trained(model)
    assert names
    assert all("language_model" in name for name in names)
    assert not any("embed" in name or "norm" in name or "lm_head" in name for name in names)
    answer_nll(run_forward(model, loaded.encoder.batch(turns_of(tiny_base)))).backward()
    assert all(p.grad is not None for p in names.values())
    torch.optim.SGD(names.values(), lr=1.0).step()
    frozen = [n for n, _ in model.named_parameters() if "vision" in n or "projector" in n or "embed" in n]
    assert len(frozen) > 10
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], before[name.removeprefix("base_model.model.")]) for name in frozen)


@WAYS
def test_a_saved_model_loads_with_the_logits_of_the_live_one(
    loaded: Loaded, tiny_base: Path, tmp_path: Path, lora: Lora | None
) -> None:
    turn = turns_of(tiny_base)[0]
    untrained = logits(loaded.model, loaded, turn)
    model = teach(loaded, tiny_base, lora)
    live = logits(model, loaded, turn)
    (tmp_path / "taught").mkdir()
    save_trained(model, tmp_path / "taught")
    again = load_ref(tiny_base, "taught", root=tmp_path)
    assert torch.allclose(logits(again.model, again, turn), live, atol=1e-4)
    assert (live - untrained).abs().max() > 0.1


@WAYS
def test_only_what_was_trained_is_saved(loaded: Loaded, tiny_base: Path, tmp_path: Path, lora: Lora | None) -> None:
    model = teach(loaded, tiny_base, lora, steps=1)
    save_trained(model, tmp_path)
    files = {file.name for file in tmp_path.iterdir()}
    assert files == ({"adapter_config.json", "adapter_model.safetensors"} if lora else {WEIGHTS_FILE})
    (weights,) = tmp_path.glob("*.safetensors")
    assert sum(t.numel() for t in load_file(weights).values()) == sum(p.numel() for p in trained(model).values())


@pytest.mark.parametrize(
    "ways", [(LORA, LORA), (LORA, None), (None, LORA)], ids=["lora+lora", "lora+full", "full+lora"]
)
def test_a_second_change_lies_on_the_first(
    loaded: Loaded, tiny_base: Path, tmp_path: Path, ways: tuple[Lora | None, Lora | None]
) -> None:
    turn, names = turns_of(tiny_base)[0], ("first", "second")
    for number, (name, lora) in enumerate(zip(names, ways, strict=True)):
        (tmp_path / name).mkdir()
        start = load_ref(tiny_base, *names[:number], root=tmp_path)
        model = teach(start, tiny_base, lora, seed=number)
        save_trained(model, tmp_path / name)
    live = logits(model, start, turn)
    both = load_ref(tiny_base, "first", "second", root=tmp_path)
    assert torch.allclose(logits(both.model, both, turn), live, atol=1e-4)
    one = load_ref(tiny_base, "second", root=tmp_path)
    if ways[1] is not None:  # full weights replace what was there
        assert not torch.allclose(logits(one.model, one, turn), live, atol=1e-2)


def test_full_weights_replace_and_adapters_add_so_the_order_counts(tiny_base: Path, tmp_path: Path) -> None:
    for name, lora in (("full", None), ("lora", LORA)):
        (tmp_path / name).mkdir()
        save_trained(teach(load_ref(tiny_base), tiny_base, lora), tmp_path / name)
    turn = turns_of(tiny_base)[0]

    def of(*names: str) -> torch.Tensor:
        ready = load_ref(tiny_base, *names, root=tmp_path)
        return logits(ready.model, ready, turn)

    assert torch.equal(of("lora", "full"), of("full"))
    assert (of("full", "lora") - of("full")).abs().max() > 0.1


def test_with_the_adapter_off_the_model_is_the_one_before_training(loaded: Loaded, tiny_base: Path) -> None:
    turn = turns_of(tiny_base)[0]
    before = logits(loaded.model, loaded, turn)
    model = teach(loaded, tiny_base, LORA)
    assert not torch.allclose(logits(model, loaded, turn), before, atol=1e-2)
    with without_adapter(model):
        assert torch.equal(logits(model, loaded, turn), before)
    assert not torch.allclose(logits(model, loaded, turn), before, atol=1e-2)


def test_a_new_adapter_changes_nothing_yet_and_its_seed_decides_where_it_starts(tiny_base: Path) -> None:
    turn, models = turns_of(tiny_base)[0], []
    for seed in (3, 3, 4):
        ready = load_ref(tiny_base)
        before = logits(ready.model, ready, turn)
        models.append(add_trainable(ready.model, ready.family, LORA, seed=seed))
        assert torch.equal(logits(models[-1], ready, turn), before)
    same, other = ([torch.equal(a, b) for a, b in pairs(models[0], model)] for model in models[1:])
    assert all(same)
    assert not all(other)


def pairs(a: Any, b: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(trained(a).values(), trained(b).values(), strict=True))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (r"decoder\.nothing", r"matches no layer of LlavaForConditionalGeneration"),
        (r".*norm.*", r"lora\.targets: .*not supported.* Match linear layers only"),
    ],
)
def test_a_useless_target_pattern_is_explained(loaded: Loaded, targets: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        add_trainable(loaded.model, loaded.family, Lora(targets=targets), seed=0)


def test_targets_of_the_recipe_narrow_what_trains(loaded: Loaded) -> None:
    model = add_trainable(loaded.model, loaded.family, Lora(targets=r".*language_model.*\.v_proj"), seed=0)
    assert isinstance(model, PeftModel)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained(model)} == {"v_proj"}


@WAYS
def test_a_place_that_cannot_be_written_is_explained(loaded: Loaded, tmp_path: Path, lora: Lora | None) -> None:
    model = add_trainable(loaded.model, loaded.family, lora, seed=0)
    (tmp_path / ("adapter_model.safetensors" if lora else WEIGHTS_FILE)).mkdir()  # in the way
    with pytest.raises(RunStoreError, match=r"cannot be written \(.*directory"):
        save_trained(model, tmp_path)


def test_training_lowers_the_nll_seen_from_outside(loaded: Loaded, tiny_base: Path) -> None:
    before = nll(loaded, turns_of(tiny_base))
    teach(loaded, tiny_base, LORA, steps=5)
    assert nll(loaded, turns_of(tiny_base)) < before - 0.2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_alfa": 16}, "lora_alpha: Field required"),
        ({"lora_alpha": None}, "lora_alpha: Input should be a valid number"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"r": 0}, "r: Input should be greater than 0"),
        ({"peft_type": "IA3"}, "peft_type: String should match"),
        ({"alpha_pattern": {"q_proj": 64}}, "only plain low-rank adapters can be added"),
        ({"rank_pattern": {"q_proj": 2}}, "only plain low-rank adapters can be added"),
    ],
)
def test_values_of_a_foreign_adapter_that_are_missing_or_odd_are_named(
    change: dict[str, Any], said: str, loaded: Loaded, tiny_base: Path, tmp_path: Path
) -> None:
    (tmp_path / "theirs").mkdir()
    save_trained(teach(loaded, tiny_base, LORA), tmp_path / "theirs")
    path = tmp_path / "theirs" / "adapter_config.json"
    config = json.loads(path.read_text())
    if "lora_alfa" in change:
        del config["lora_alpha"]
    path.write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=said):
        load_ref(tiny_base, "theirs", root=tmp_path)


def test_the_model_before_training_stays_that_while_it_is_asked_for_again(tiny_base: Path, tmp_path: Path) -> None:
    """With adapters of earlier stages beside weights of few bits, which PEFT keeps."""
    loaded = load_ref(tiny_base)
    first = add_trainable(loaded.model, loaded.family, LORA, seed=1)
    change(first)
    save_trained(first, tmp_path)
    loaded = load_ref(tiny_base)
    with quiet_libraries():
        attached = weights.attach(loaded.model, tmp_path)
    model = add_trainable(attached, loaded.family, LORA, seed=2)
    change(model)
    turn = turns_of(tiny_base)[0]
    with without_adapter(model):
        before = logits(model, loaded, turn)
        with without_adapter(model):
            assert torch.equal(logits(model, loaded, turn), before)
        assert torch.equal(logits(model, loaded, turn), before), "the inner one has ended"
    assert not torch.allclose(logits(model, loaded, turn), before, atol=1e-3)
    assert [name for name, p in model.named_parameters() if p.requires_grad and f".{weights.NEW}." not in name] == []
    assert any(p.requires_grad for p in model.parameters())


def change(model: Any) -> None:
    """Let the adapter in training do something."""
    torch.manual_seed(4)
    for name, weight in model.named_parameters():
        if weight.requires_grad and "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
