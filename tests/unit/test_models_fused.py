"""Adapters, norms and attention in few operations give what the modules themselves give."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from benchmarks.engine_work import people_turns
from benchmarks.step_operations import IMAGE_SIDE, deep_llava, measure, train_steps
from mllmu.config.recipe import ModelSection
from mllmu.core.records import ModelRef
from mllmu.models.dropout import seed_dropout
from mllmu.models.engine import fused
from mllmu.models.loading import load, quiet_libraries
from mllmu.models.weights import put_beside
from mllmu.training.batches import forward, training_batch
from mllmu.training.loop import CURVE
from mllmu.training.losses import answer_nll

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WIDTH = 24


class Mixer(nn.Module):
    """Reads one input with layers of different widths, with and without bias, as attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH // 2, bias=False)
        self.v_proj, self.o_proj = nn.Linear(WIDTH, WIDTH // 2, bias=False), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        states = torch.cat([self.k_proj(x), self.v_proj(x).sin()], dim=-1)
        return self.o_proj(torch.tanh(self.q_proj(x)) * states)


def adapted(net: nn.Module, dtype: torch.dtype = torch.float32, **more: Any) -> PeftModel:
    """A net with adapters that change what it gives; the first layers' weights, too, are drawn by one seed."""
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS} | more
    with quiet_libraries():
        model = get_peft_model(net.to(dtype), LoraConfig(**settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.3)
    return model


def outcome(model: Any, run: Callable[[], Tensor], *more: Tensor) -> dict[str, Tensor]:
    """What a model gives, and the gradients of its trained weights and of further tensors."""
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    given = run()
    gradients = torch.autograd.grad(given.float().square().mean(), [*weights.values(), *more], allow_unused=True)
    return {"given": given.detach(), **dict(zip([*weights, *map(str, range(len(more)))], gradients, strict=True))}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], least: float) -> None:
    for name, value in expected.items():
        gap = (found[name].float() - value.float()).abs().max() / value.float().abs().max()
        assert gap <= least, f"{name}: {gap}"


@pytest.mark.parametrize(
    ("targets", "dtype", "least"),
    [
        (TARGETS, torch.float32, 1e-6),
        (["q_proj", "v_proj"], torch.float32, 1e-6),
        (["k_proj", "o_proj"], torch.float32, 1e-6),
        (TARGETS, torch.bfloat16, 2e-2),
    ],
)
def test_a_group_gives_what_its_layers_give_and_their_gradients(
    targets: list[str], dtype: torch.dtype, least: float
) -> None:
    torch.manual_seed(3)
    model = adapted(Mixer(), dtype, target_modules=targets)
    x = torch.randn(2, 7, WIDTH, dtype=dtype, requires_grad=True)
    expected = outcome(model, lambda: model(x), x)
    fused.fuse(model)
    found = outcome(model, lambda: model(x), x)
    assert_close(found, expected, least)
    assert {name: p.dtype for name, p in found.items()} == {name: p.dtype for name, p in expected.items()}


def test_frozen_adapters_beside_the_trained_one_count_and_get_no_gradient() -> None:
    torch.manual_seed(5)
    model = adapted(Mixer())
    model.add_adapter("new", LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "o_proj"]))
    model.base_model.set_adapter(["default", "new"])
    for name, weight in model.named_parameters():
        weight.requires_grad_(".new." in name)
        if "lora_B.new" in name:
            nn.init.normal_(weight)
    x = torch.randn(3, 4, WIDTH, requires_grad=True)
    expected = outcome(model, lambda: model(x), x)
    fused.fuse(model)
    assert_close(outcome(model, lambda: model(x), x), expected, 1e-6)


def test_switched_off_adapters_leave_the_base_and_come_back() -> None:
    torch.manual_seed(7)
    model = adapted(Mixer())
    x = torch.randn(3, 4, WIDTH)
    with model.disable_adapter():
        base = model(x)
    fused.fuse(model)
    first = model(x)
    with model.disable_adapter():
        assert torch.equal(model(x), base)
    assert torch.equal(model(x), first)
    assert not torch.allclose(first, base)


@pytest.mark.parametrize("pre", [False, True])
def test_what_hooks_a_layer_under_its_adapter_is_kept(pre: bool) -> None:
    torch.manual_seed(8)
    model = adapted(Mixer())
    base = model.get_submodule("base_model.model.k_proj").base_layer
    if pre:
        base.register_forward_pre_hook(lambda _, args: (args[0] * 2,))
    else:
        base.register_forward_hook(lambda _, __, output: output + 1)
    x = torch.randn(3, 4, WIDTH, requires_grad=True)
    expected = outcome(model, lambda: model(x), x)
    fused.fuse(model)
    assert_close(outcome(model, lambda: model(x), x), expected, 1e-6)
    with torch.no_grad():
        assert torch.allclose(model(x), expected["given"], atol=1e-6)


@pytest.mark.parametrize("scale", [4, 6])
def test_the_layers_of_a_group_share_a_dropout_whose_mask_the_gradient_sees(scale: int) -> None:
    torch.manual_seed(9)
    model = adapted(Mixer(), lora_dropout=0.5, lora_alpha=scale, target_modules=["k_proj", "v_proj"]).train()
    seed_dropout(model, "default")
    fused.fuse(model)
    x = torch.randn(2, 3, WIDTH, requires_grad=True)
    torch.manual_seed(1)
    found = outcome(model, lambda: model(x), x)
    group = model.base_model.model
    k, v = group.k_proj, group.v_proj

    def by_hand() -> Tensor:
        torch.manual_seed(1)
        dropped = k.lora_dropout["default"](x)
        assert 0.3 < dropped.eq(0).float().mean() < 0.7
        added = (layer.lora_B["default"](layer.lora_A["default"](dropped)) * scale / 4 for layer in (k, v))
        states = [layer.base_layer(x) + more for layer, more in zip((k, v), added, strict=True)]
        return group.o_proj(torch.tanh(group.q_proj(x)) * torch.cat([states[0], states[1].sin()], dim=-1))

    assert_close(found, outcome(model, by_hand, x), 1e-6)


def llama(**more: Any) -> LlamaModel:
    config = LlamaConfig(
        vocab_size=50, hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
        num_key_value_heads=3, **more,
    )  # fmt: skip
    torch.manual_seed(11)
    net = LlamaModel(config)
    for name, weight in net.named_parameters():
        nn.init.normal_(weight, mean=1.0 if "norm" in name else 0.0, std=0.3)
    return net


@pytest.mark.parametrize("more", [{}, {"attn_implementation": "eager", "attention_bias": True}])
def test_a_llama_with_fused_attention_and_norms_gives_the_same(more: dict[str, Any]) -> None:
    model = adapted(llama(**more))
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0

    def run() -> Tensor:
        return model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :6]

    expected = outcome(model, run)
    fused.fuse(model)
    assert_close(outcome(model, run), expected, 2e-5)
    with torch.no_grad():
        assert torch.equal(run(), expected["given"]), "without a gradient the modules' own code runs"
        model(input_ids=ids, use_cache=True)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_a_norm_is_recognised_and_equal(dtype: torch.dtype, least: float) -> None:
    norm = LlamaRMSNorm(32, eps=1e-5).to(dtype).requires_grad_(False)
    nn.init.normal_(norm.weight, mean=1.0, std=0.5)
    assert fused.is_rms_norm(norm)
    x = torch.randn(5, 32, dtype=dtype, requires_grad=True)
    expected, found = norm(x), fused.rms_norm(x, norm.weight, 1e-5)
    assert (found - expected).abs().max() <= least * expected.abs().max()
    expected, found = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (expected, found))
    assert (found - expected).abs().max() <= least * expected.abs().max()


def test_a_norm_of_another_kind_is_left_alone() -> None:
    gemma = Gemma3RMSNorm(16).requires_grad_(False)
    gemma.variance_epsilon = gemma.eps
    nn.init.normal_(gemma.weight)
    assert not fused.is_rms_norm(gemma)
    assert not fused.is_rms_norm(nn.LayerNorm(16).requires_grad_(False))


def test_a_norm_whose_weights_are_trained_keeps_its_own_code() -> None:
    net = nn.ModuleList([LlamaRMSNorm(16), LlamaRMSNorm(16).requires_grad_(requires_grad=False)])
    fused.fuse(net)
    assert ["forward" in norm.__dict__ for norm in net] == [False, True]


def test_the_adapters_file_is_pefts_own(tmp_path: Path) -> None:
    model = adapted(Mixer())
    before = get_peft_model_state_dict(model)
    x = torch.randn(2, 3, WIDTH)
    fused.fuse(model)
    expected = model(x)
    model.save_pretrained(str(tmp_path))
    assert get_peft_model_state_dict(model).keys() == before.keys()
    torch.manual_seed(3)
    base = Mixer()
    base.load_state_dict({k.replace(".base_layer", ""): v for k, v in model.base_model.model.state_dict().items()
                          if "lora_" not in k})  # fmt: skip
    assert torch.allclose(PeftModel.from_pretrained(base, str(tmp_path))(x), expected, atol=1e-6)


def test_weights_that_move_are_not_remembered() -> None:
    weight = nn.Parameter(torch.randn(3, 2))
    assert torch.equal(fused.transposed(weight), weight.t())
    weight.data = torch.randn(3, 2)
    assert torch.equal(fused.transposed(weight), weight.t())
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(fused.transposed(weight), weight.t())


def test_a_step_of_a_deep_model_is_made_of_few_operations(tmp_path: Path) -> None:
    found = measure(tmp_path, layers=16, vision_layers=2)
    assert found["operations"] <= 3000, "half of the 6,000 that 32 layers may have"
    assert found["host_reads"] == 0


@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_layers_with_earlier_adapters_beside_their_weights_are_groups_too(dtype: torch.dtype, least: float) -> None:
    torch.manual_seed(4)
    net = Mixer().to(dtype)
    for rank, layer in enumerate((net.q_proj, net.v_proj, net.o_proj), start=1):
        put_beside(layer, torch.randn(rank, WIDTH), 0.3 * torch.randn(layer.out_features, rank))
    model = adapted(net, dtype)
    x = torch.randn(2, 7, WIDTH, dtype=dtype, requires_grad=True)
    expected = outcome(model, lambda: model(x), x)
    fused.fuse(model)
    assert all(fused.is_plain(layer) for layer in (net.q_proj, net.k_proj, net.v_proj, net.o_proj))
    assert_close(outcome(model, lambda: model(x), x), expected, least)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_on_a_gpu_waits_for_nothing_and_agrees_with_the_plain_modules(tmp_path: Path) -> None:
    """The first loss is that of the modules themselves; in the sixth step any wait for the device is an error."""
    deep_llava(tmp_path, layers=4, vision_layers=2)
    section = ModelSection(path=str(tmp_path), device="cuda", dtype="bfloat16")
    loaded = load(section, ModelRef(base=str(tmp_path)), tmp_path)
    turns, firsts = people_turns(tmp_path, 2, 5, IMAGE_SIDE), list[float]()

    def at_step(step: int) -> None:
        if step == 0:
            with torch.no_grad():  # runs the modules' own code
                firsts.append(answer_nll(forward(loaded.model, turns, partial(training_batch, loaded))).item())
        torch.cuda.set_sync_debug_mode("error" if step == 5 else "default")

    try:
        train_steps(loaded, turns, tmp_path, at_step, 7)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    curve = json.loads((tmp_path / CURVE).read_text())
    assert len(curve) == 7
    assert curve[0]["nll"] == pytest.approx(firsts[0], rel=2e-2)
    assert curve[-1]["nll"] < curve[0]["nll"]
