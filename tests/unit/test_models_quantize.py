"""Small weights: only the layers that get adapters, and an adapter that is kept beside them instead of swallowed."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import LORA, load_ref, make_base, training, turns_of
from torch import nn
from transformers import AutoConfig

from mllmu.core import plugins
from mllmu.core.errors import DependencyError, ModelError
from mllmu.models.engine.forward import run_forward
from mllmu.models.loading import Loaded, add_trainable, apply_adapter, choose_family, save_trained, without_adapter
from mllmu.models.modifiers import ModifierSettings, Pruned
from mllmu.models.weights import kept_layers, load_settings
from mllmu.training.batches import pack
from mllmu.training.losses import answer_nll
from mllmu.unlearning.trainer import Sides, unlearn


def test_without_the_library_one_sentence_says_what_to_install(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(DependencyError, match=r"^model\.quantize: nf4: .*pip install 'mllmu\[qlora\]'"):
        load_ref(tiny_base, quantize="nf4")


def test_only_layers_with_adapters_are_made_small(tiny_base: Path) -> None:
    config, family = AutoConfig.from_pretrained(tiny_base), choose_family("auto", "llava")
    kept = kept_layers(config, family)
    assert "lm_head" in kept
    assert [name for name in kept if "projector" in name]
    assert [name for name in kept if "vision_tower" in name]
    assert not [name for name in kept if "language_model" in name]


def test_the_settings_are_those_of_qlora(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", object())
    config, family = AutoConfig.from_pretrained(tiny_base), choose_family("auto", "llava")
    four, eight = (
        load_settings(kind, config, family, torch.bfloat16, torch.device("cpu"))["quantization_config"]
        for kind in ("nf4", "int8")
    )
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == (True, "nf4", True)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16
    assert eight.load_in_8bit


def teach(loaded: Loaded, base: Path, *, seed: int, steps: int = 3) -> Any:
    model = add_trainable(loaded.model, loaded.family, LORA, seed=seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        answer_nll(run_forward(model, loaded.encoder.batch(turns_of(base)))).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logps(model: Any, loaded: Loaded, base: Path) -> torch.Tensor:
    with torch.no_grad():
        return run_forward(model, loaded.encoder.batch(turns_of(base))).row_logp_B


def beside(loaded: Loaded, *folders: Path) -> Any:
    model = loaded.model
    for folder in folders:
        model = apply_adapter(model, folder, merge=False)
    return model


def test_adapters_beside_the_weights_give_what_merged_ones_give(tiny_base: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        start = load_ref(tiny_base, *[f.name for f in folders[:number]], root=tmp_path)
        save_trained(teach(start, tiny_base, seed=number), folder)
    merged = load_ref(tiny_base, "first", "second", root=tmp_path)
    loaded = load_ref(tiny_base)
    plain = logps(loaded.model, loaded, tiny_base)
    model = beside(loaded, *folders)
    assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(
        logps(model, loaded, tiny_base), logps(merged.model, merged, tiny_base), atol=1e-3, rtol=0
    )
    assert (logps(model, loaded, tiny_base) - plain).abs().max() > 0.5


def test_a_new_adapter_on_frozen_ones_trains_and_is_saved_alone(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "taught").mkdir()
    (tmp_path / "unlearned").mkdir()
    start = load_ref(tiny_base)
    save_trained(teach(start, tiny_base, seed=0), tmp_path / "taught")

    ready = load_ref(tiny_base)
    ready = Loaded(model=beside(ready, tmp_path / "taught"), encoder=ready.encoder, device=ready.device)
    before = logps(ready.model, ready, tiny_base)
    frozen = {n: p.clone() for n, p in ready.model.named_parameters()}
    model = teach(ready, tiny_base, seed=1)
    assert {n.split(".lora_")[1].split(".")[1] for n, p in model.named_parameters() if p.requires_grad} == {"default"}
    assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in frozen.items())
    live = logps(model, ready, tiny_base)
    assert (live - before).abs().max() > 0.1
    with without_adapter(model):  # the reference is the taught model, not the base
        torch.testing.assert_close(logps(model, ready, tiny_base), before)
    torch.testing.assert_close(logps(model, ready, tiny_base), live)
    assert all(p.requires_grad == (".default." in n) for n, p in model.named_parameters())

    save_trained(model, tmp_path / "unlearned")
    assert {f.name for f in (tmp_path / "unlearned").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    again = load_ref(tiny_base, "taught", "unlearned", root=tmp_path)
    torch.testing.assert_close(logps(again.model, again, tiny_base), live, atol=1e-3, rtol=0)


def test_a_gradient_flows_through_a_reference_taken_between_forward_and_backward(
    tiny_base: Path, tmp_path: Path
) -> None:
    save_trained(teach(load_ref(tiny_base), tiny_base, seed=0), tmp_path)
    ready = load_ref(tiny_base)
    ready = Loaded(model=beside(ready, tmp_path), encoder=ready.encoder, device=ready.device)
    model = add_trainable(ready.model, ready.family, LORA, seed=1)
    batch = ready.encoder.batch(turns_of(tiny_base))
    loss = answer_nll(run_forward(model, batch))
    with torch.no_grad(), without_adapter(model):
        run_forward(model, batch)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def neurons_off(base: Path, folder: Path, *, first: int) -> None:
    """Every third neuron switched off, of the language model and of the vision tower."""
    sizes = {n: m.in_features for n, m in load_ref(base).model.named_modules() if n.endswith(("down_proj", "mlp.fc2"))}
    masks = {name: torch.arange(size) % 3 == first for name, size in sizes.items()}
    folder.mkdir()
    Pruned(ModifierSettings(kind="pruned"), masks).save(folder)


def test_neurons_are_switched_off_in_layers_with_adapters_beside_them_as_in_merged_ones(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Two requests to switch some off; and what is trained on top is the same when it is loaded again."""
    (tmp_path / "taught").mkdir()
    save_trained(teach(load_ref(tiny_base), tiny_base, seed=0), tmp_path / "taught")
    for first in (0, 1):
        neurons_off(tiny_base, tmp_path / f"off_{first}", first=first)
    names = ["taught", "off_0", "off_1"]
    found = []
    for count in (1, 2, 3):
        merged = load_ref(tiny_base, *names[:count], root=tmp_path)
        small = load_ref(tiny_base)
        found.append(logps(beside(small, *[tmp_path / name for name in names[:count]]), small, tiny_base))
        torch.testing.assert_close(found[-1], logps(merged.model, merged, tiny_base), atol=2e-3, rtol=0)
    assert min((one - two).abs().max() for one, two in pairwise(found)) > 0.1
    ready = load_ref(tiny_base)
    ready = replace(ready, model=beside(ready, *[tmp_path / name for name in names]))
    model = teach(ready, tiny_base, seed=1)
    with without_adapter(model):
        torch.testing.assert_close(logps(model, ready, tiny_base), found[-1])
    (tmp_path / "more").mkdir()
    save_trained(model, tmp_path / "more")
    again = load_ref(tiny_base)
    whole = beside(again, *[tmp_path / name for name in (*names, "more")])
    torch.testing.assert_close(logps(whole, again, tiny_base), logps(model, ready, tiny_base))


class PackedLinear(nn.Linear):
    """A layer that keeps its weights in a form of its own, as those of a library for few bits do."""


def test_neurons_are_switched_off_in_front_of_packed_weights(tiny_base: Path, tmp_path: Path) -> None:
    neurons_off(tiny_base, tmp_path / "off", first=2)
    turns, exact = turns_of(tiny_base), load_ref(tiny_base, "off", root=tmp_path)
    packed = load_ref(tiny_base, encoder=exact.encoder)
    plain = run_forward(packed.model, pack(packed, turns)).row_logp_B
    before = {name: value.clone() for name, value in packed.model.state_dict().items()}
    for layer in packed.model.modules():
        layer.__class__ = PackedLinear if type(layer) is nn.Linear else type(layer)
    model = beside(packed, tmp_path / "off")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(logps(model, packed, tiny_base), logps(exact.model, exact, tiny_base))
    off = run_forward(model, pack(packed, turns)).row_logp_B  # with features of images that are remembered
    torch.testing.assert_close(off, run_forward(exact.model, pack(exact, turns)).row_logp_B)
    assert (off - plain).abs().max() > 0.1


@pytest.mark.parametrize("vision", [False, True])
def test_manu_on_a_model_with_adapters_beside_its_weights_can_be_loaded(
    tiny_base: Path, tmp_path: Path, *, vision: bool
) -> None:
    (tmp_path / "taught").mkdir()
    save_trained(teach(load_ref(tiny_base), tiny_base, seed=0), tmp_path / "taught")
    start, turns = load_ref(tiny_base), turns_of(tiny_base)
    start = replace(start, model=beside(start, tmp_path / "taught"))
    method = plugins.build("methods", "manu", {"share": 0.2, "vision": vision})
    unlearn(start, method, Sides(forget=turns[:2], retain=turns[2:]), training(tmp_path / "manu"))
    merged, small = load_ref(tiny_base, "taught", "manu", root=tmp_path), load_ref(tiny_base)
    model = beside(small, tmp_path / "taught", tmp_path / "manu")
    torch.testing.assert_close(
        logps(model, small, tiny_base), logps(merged.model, merged, tiny_base), atol=2e-3, rtol=0
    )


def test_weights_in_half_precision_are_not_trained(tiny_base: Path) -> None:
    half = load_ref(tiny_base, dtype="bfloat16")
    with pytest.raises(ModelError, match=r"lora: null trains the weights.* in bfloat16 .*Set model\.dtype: float32"):
        add_trainable(half.model, half.family, None, seed=0)
    adapted = add_trainable(half.model, half.family, LORA, seed=0)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.filterwarnings("ignore")
def test_a_quantised_model_learns_keeps_its_adapter_and_is_loaded_again(tmp_path: Path, kind: str) -> None:
    library = pytest.importorskip("bitsandbytes", reason="needs the extra 'qlora'")
    base = make_base(tmp_path / "base", width=192)  # rows of at least one block of 64 weights
    small = load_ref(base, quantize=kind)
    layers = {"nf4": library.nn.Linear4bit, "int8": library.nn.Linear8bitLt}
    made = [name for name, layer in small.model.named_modules() if isinstance(layer, layers[kind])]
    assert len(made) == 2 * 7
    assert all("language_model" in name for name in made)
    exact = logps(load_ref(base).model, small, base)
    assert (logps(small.model, small, base) - exact).abs().max() < 5
    (tmp_path / "taught").mkdir()
    before = answer_nll(run_forward(small.model, small.encoder.batch(turns_of(base)))).item()
    model = teach(small, base, seed=0, steps=8)
    assert answer_nll(run_forward(model, small.encoder.batch(turns_of(base)))).item() < before - 0.5
    save_trained(model, tmp_path / "taught")
    again = load_ref(base, "taught", root=tmp_path, quantize=kind)
    torch.testing.assert_close(logps(again.model, again, base), logps(model, small, base), atol=1e-3, rtol=1e-3)
    with pytest.raises(ModelError, match=r"lora: null trains the weights.* few bits"):
        add_trainable(again.model, again.family, None, seed=0)
    second = teach(again, base, seed=1)
    with without_adapter(second):
        torch.testing.assert_close(logps(second, again, base), logps(model, small, base), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.filterwarnings("ignore")
def test_an_evaluation_in_between_takes_no_gradient_away(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra 'qlora'")
    base = make_base(tmp_path / "base", width=192)
    found = []
    for evaluated in (False, True):
        loaded = load_ref(base, quantize=kind)
        if evaluated:
            logps(loaded.model, loaded, base)
        model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
        model.train()
        answer_nll(run_forward(model, loaded.encoder.batch(turns_of(base)))).backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(torch.equal(found[0][name], gradient) for name, gradient in found[1].items())
    assert max(gradient.abs().max() for gradient in found[0].values()) > 0
