"""Dropout depends on step, layer, sample and place alone: no split, layout, process or second run changes it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import LORA, load_ref, training, turns_of
from torch import Tensor, nn

from mllmu.core import plugins
from mllmu.core.process import derive
from mllmu.models.dropout import AdapterNoise, SeededDropout, feature_numbers, odd, token_keys
from mllmu.models.encoding import evaluating
from mllmu.models.engine.forward import run_logits
from mllmu.models.families import Turn, core
from mllmu.models.loading import Loaded, add_trainable, apply_adapter, save_trained, without_adapter
from mllmu.training.batches import forward, training_batch
from mllmu.training.losses import answer_nll
from mllmu.unlearning.trainer import Sides, unlearn

MASK = 2**64 - 1


def fresh(base: Path, *, dropout: float = 0.3, targets: str | None = None, **settings: Any) -> tuple[Loaded, Any]:
    """A model in training whose adapters do something."""
    loaded = load_ref(base, **settings)
    lora = LORA.model_copy(update={"dropout": dropout, "targets": targets})
    model = add_trainable(loaded.model, loaded.family, lora, seed=1)
    with torch.no_grad():
        for number, weight in enumerate(p for p in model.parameters() if p.requires_grad):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) / 10)
    return loaded, model.train()


def gradient(loaded: Loaded, model: Any, turns: Sequence[Turn], at_once: int | None = None, *, step: int = 7) -> Tensor:
    """The gradient of a step, all weights in one row."""
    torch.manual_seed(step)
    loss = answer_nll(forward(model, turns, partial(training_batch, loaded), at_once=at_once))
    return torch.cat(
        [g.flatten() for g in torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]
    )


def difference(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / one.norm())


def masks(loaded: Loaded, model: Any, turns: Sequence[Turn], *, step: int = 7) -> list[Tensor]:
    """[B, T, D] what the first layer's dropout keeps of every batch of a step."""
    layer = next(m for name, m in model.named_modules() if isinstance(m, SeededDropout) and "q_proj" in name)
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _m, args, _out: kept.append(layer.kept(args[0].shape, args[0].device)))
    with torch.no_grad(), hook:
        torch.manual_seed(step)
        forward(model, turns, partial(training_batch, loaded))
    return kept


def test_the_mask_is_the_documented_product() -> None:
    def mixed(value: int) -> int:
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
        value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
        return value ^ value >> 31

    def of_token(key: int, seed: int) -> int:
        value = (key ^ seed >> 1) * 0xBF58476D1CE4E5B9 & MASK
        signed = value - 2**64 if value >= 2**63 else value
        value = (value ^ (signed >> 29) & MASK) * 0x94D049BB133111EB & MASK
        return value >> 32 | 1

    place, ids, layer = 0x9E3779B97F4A7C15, [5, 5, 319], "model.layers.3.q_proj"
    keys, total = [], 77
    for number, token in enumerate(ids, start=1):
        total += mixed(token * 0xBF58476D1CE4E5B9 + number * place & MASK)
        keys.append(total & MASK)
    found = token_keys(ids, 77)
    assert found.tolist() == keys
    torch.manual_seed(123456789)
    tokens = odd(torch.from_numpy(found.view("int64"))[None])
    a = [of_token(key, 123456789) for key in keys]
    b = [mixed(f * place + derive(0, "dropout", layer) & MASK) >> 32 | 1 for f in range(40)]
    assert [number % 2**32 for number in feature_numbers(layer, 40).tolist()] == b

    def lost(one: int, two: int) -> bool:
        product = one * two % 2**32
        return (product - 2**32 if product >= 2**31 else product) < 0.25 * 2**32 - 2**31

    noise = AdapterNoise()
    with noise.drawn(tokens, None):
        kept = SeededDropout(0.25, layer, noise).kept(torch.Size((1, 3, 40)), torch.device("cpu"))
    assert kept[0].tolist() == [[not lost(one, two) for two in b] for one in a]


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_masks_are_independent_draws(p: float) -> None:
    """Of tokens, features, layers and steps: all of 20 counts within 5 standard deviations of what chance says."""
    noise, shape, device = AdapterNoise(), torch.Size((1, 512, 512)), torch.device("cpu")
    keys = torch.from_numpy(token_keys([3] * 512, 0).view("int64"))[None]

    def drawn(layer: str, step: int) -> Tensor:
        torch.manual_seed(step)
        with noise.drawn(odd(keys), None):
            return ~SeededDropout(p, layer, noise).kept(shape, device)[0]

    def check(count: float, trials: int, chance: float) -> None:
        assert abs(count - trials * chance) < 5 * math.sqrt(trials * chance * (1 - chance)) + 1

    first = drawn("one", 1)
    both = p * p + (1 - p) * (1 - p)
    check(int(first.sum()), first.numel(), p)
    for other in (drawn("two", 1), drawn("one", 2), first.roll(1, 0), first.roll(1, 1), first.T, first.roll(7, 0)):
        check(int((first == other).sum()), first.numel(), both)
    for axis in (0, 1):
        counts = first.sum(axis).double()
        expected = 512 * p * (1 - p)
        # the variance of 512 sample variances is about 2 / 512
        assert abs(counts.var() / expected - 1) < 5 * math.sqrt(2 / 512)


def test_what_is_kept_is_scaled_and_so_is_its_gradient() -> None:
    layer, x = SeededDropout(0.25, "a", AdapterNoise()), torch.randn(4, 6, 8, requires_grad=True)
    torch.manual_seed(5)
    kept, out = layer.kept(x.shape, x.device), layer(x)
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(out, torch.where(kept, x / 0.75, 0.0))
    out.sum().backward()
    torch.testing.assert_close(x.grad, kept / 0.75)
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize(
    "settings", [{}, {"packing": "off"}, {"gradient_checkpointing": True}], ids=["packed", "plain", "checkpointing"]
)
def test_a_split_step_has_the_gradient_of_the_whole(tiny_base: Path, settings: dict[str, Any]) -> None:
    loaded, model = fresh(tiny_base, **settings)
    turns = turns_of(tiny_base)
    whole = gradient(loaded, model, turns)
    for at_once in (1, 2, 4, 5):
        assert difference(whole, gradient(loaded, model, turns, at_once)) < 1e-5
    assert difference(whole, gradient(loaded, model, [turns[i] for i in (5, 0, 3, 1, 4, 2)])) < 1e-5
    assert difference(whole, gradient(loaded, model, turns, step=8)) > 1e-2
    assert difference(whole, gradient(*fresh(tiny_base, dropout=0.0, **settings), turns)) > 1e-2


def test_adapters_of_the_vision_tower_drop_by_image(tiny_base: Path) -> None:
    loaded, model = fresh(tiny_base, targets=r".*\.(q_proj|v_proj)")
    turns = turns_of(tiny_base)
    whole = gradient(loaded, model, turns)
    for at_once in (2, 4):
        assert difference(whole, gradient(loaded, model, turns, at_once)) < 1e-5


def test_activations_computed_again_have_the_same_noise(tiny_base: Path) -> None:
    turns = turns_of(tiny_base)
    kept, again = (gradient(*fresh(tiny_base, gradient_checkpointing=on), turns) for on in (False, True))
    assert torch.equal(kept, again)

    def two_sides(*, on: bool) -> Tensor:
        """The second pass of a step comes before the backward pass of the first."""
        loaded, model = fresh(tiny_base, gradient_checkpointing=on)
        torch.manual_seed(7)
        passes = [forward(model, part, partial(training_batch, loaded)) for part in (turns[:2], turns[3:])]
        loss = answer_nll(passes[0]) - answer_nll(passes[1])
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])]
        )

    assert torch.equal(two_sides(on=False), two_sides(on=True))


def test_questions_share_the_noise_of_a_packed_prefix_and_nothing_else(tiny_base: Path) -> None:
    turns = turns_of(tiny_base)[:2]
    loaded, model = fresh(tiny_base)
    (together,), (first,), (second,) = (masks(loaded, model, some) for some in (turns, turns[:1], turns[1:]))
    prompts = [loaded.encoder.prompt(turn) for turn in turns]
    cut = next(i for i, pair in enumerate(zip(*prompts, strict=False)) if pair[0] != pair[1])
    assert torch.equal(first[0, :cut], second[0, :cut])
    assert torch.equal(together[0, : first.shape[1]], first[0])
    assert not torch.equal(first[0, cut : cut + 2], second[0, cut : cut + 2])
    plain_loaded, plain_model = fresh(tiny_base, packing="off")
    (rows,) = masks(plain_loaded, plain_model, turns)
    agreement = (rows[0, :cut] == rows[1, :cut]).float().mean().item()
    assert agreement == pytest.approx(0.3**2 + 0.7**2, abs=0.08)


def test_the_same_words_about_another_image_have_other_noise(tiny_base: Path) -> None:
    """As every process of a distributed run draws for its own questions."""
    loaded, model = fresh(tiny_base)
    red, green = turns_of(tiny_base)[0], turns_of(tiny_base)[2]
    (one,), (two,) = (masks(loaded, model, [turn]) for turn in (red, Turn(prompt=red.prompt, image=green.image)))
    length = min(one.shape[1], two.shape[1])
    assert (one[:, :length] == two[:, :length]).float().mean().item() == pytest.approx(0.58, abs=0.05)
    assert torch.equal(one, masks(loaded, model, [red])[0])


def taught(base: Path, folder: Path, *, merge: bool, **settings: Any) -> Loaded:
    """A model with a finished adapter, merged or kept beside its weights."""
    save_trained(fresh(base)[1], folder)
    loaded = load_ref(base, **settings)
    return replace(loaded, model=apply_adapter(loaded.model, folder, merge=merge))


@pytest.mark.parametrize("kind", ["merged", "beside", "int8", "nf4"])
def test_a_fresh_adapter_starts_at_the_very_reference(tiny_base: Path, tmp_path: Path, kind: str) -> None:
    settings = {}
    if kind in ("int8", "nf4"):
        pytest.importorskip("bitsandbytes")
        settings = {"quantize": kind}
    loaded = taught(tiny_base, tmp_path, merge=kind == "merged", **settings)
    model = add_trainable(loaded.model, loaded.family, LORA.model_copy(update={"dropout": 0.3}), seed=2).train()
    batch = training_batch(replace(loaded, model=model), turns_of(tiny_base))
    policy = run_logits(model, batch)
    with evaluating(model), torch.no_grad(), without_adapter(model):
        assert torch.equal(policy, run_logits(model, batch))
    assert torch.equal(policy, run_logits(model, batch))


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "beside"])
@pytest.mark.parametrize(("name", "term", "value"), [("npo", "forget_npo", 3.465736), ("kl_min", "retain_kl", 0.0)])
def test_the_first_loss_is_that_of_the_reference(
    tiny_base: Path, tmp_path: Path, merge: bool, name: str, term: str, value: float
) -> None:
    """2 ln 2 / beta of npo, and no divergence."""
    loaded, turns = taught(tiny_base, tmp_path / "first", merge=merge), turns_of(tiny_base)
    method = plugins.build("methods", name, {"batch_size": 3, **({"beta": 0.4} if name == "npo" else {})})
    lora = LORA.model_copy(update={"dropout": 0.3})
    unlearn(
        loaded,
        method,
        Sides(forget=turns[:4], retain=turns[2:]),
        training(tmp_path / "second", lora=lora, reference_mib=0),
    )
    assert json.loads((tmp_path / "second" / "curve.json").read_text())[0][term] == value


def test_frozen_adapters_drop_nothing(tiny_base: Path, tmp_path: Path) -> None:
    loaded = taught(tiny_base, tmp_path, merge=False)
    both = add_trainable(loaded.model, loaded.family, LORA, seed=2).train()
    assert not [m for m in both.modules() if isinstance(m, SeededDropout)]
    assert not [m for n, m in both.named_modules() if isinstance(m, nn.Dropout) and "lora" in n]
    assert getattr(core(both), "noise", None) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_draws_the_bits_of_a_cpu() -> None:
    noise, shape = AdapterNoise(), torch.Size((2, 300, 4096))
    keys = torch.from_numpy(token_keys(list(range(600)), 3).view("int64")).view(2, 300)
    torch.manual_seed(2)
    here, there = torch.device("cpu"), torch.device("cuda")
    layer = SeededDropout(0.05, "a", noise)
    with noise.drawn(odd(keys), None):
        expected = layer.kept(shape, here)
    with noise.drawn(odd(keys.to(there)), None):
        assert torch.equal(layer.kept(shape, there).cpu(), expected)
