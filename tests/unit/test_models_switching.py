"""The base is read once per process; every model of it is exactly what a process that loads nothing else would get."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import LORA, load_ref, logits, turns_of
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText

from mllmu.models.engine.forward import run_forward
from mllmu.models.families import core
from mllmu.models.gate import Gate
from mllmu.models.loading import Loaded, add_trainable, release_base, save_trained, without_adapter
from mllmu.models.modifiers import ModifierSettings, Pruned, Steering
from mllmu.models.weights import AdaptedLinear, fold, put_beside, round_weights, rounded
from mllmu.training.losses import answer_nll

MODELS = [(), ("first",), ("first", "second"), ("first", "full"), ("first", "pruned"), ("steered",), ("second",), ()]
"""What a run goes through: the base, an adapter, two, changed weights, modifiers, and the base again."""


def teach(start: Loaded, base: Path, folder: Path, *, full: bool = False, seed: int = 0) -> Any:
    model = add_trainable(start.model, start.family, None if full else LORA, seed=seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        answer_nll(run_forward(model, start.encoder.batch(turns_of(base)))).backward()
        optimizer.step()
        optimizer.zero_grad()
    folder.mkdir(exist_ok=True)
    save_trained(model, folder)
    return model.eval()


@pytest.fixture(scope="module")
def run_folder(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters, one on top of the other, changed weights, and two modifiers."""
    root = tmp_path_factory.mktemp("switching")
    teach(load_ref(tiny_base), tiny_base, root / "first")
    teach(load_ref(tiny_base, "first", root=root), tiny_base, root / "second", seed=1)
    teach(load_ref(tiny_base, "first", root=root), tiny_base, root / "full", full=True)
    sizes = {n: m.in_features for n, m in load_ref(tiny_base).model.named_modules() if n.endswith("down_proj")}
    for name in ("pruned", "steered"):
        (root / name).mkdir()
    masks = {name: torch.arange(size) % 2 == 0 for name, size in sizes.items()}
    Pruned(ModifierSettings(kind="pruned"), masks).save(root / "pruned")
    gate = Gate(torch.randn(2, 32, generator=torch.Generator().manual_seed(4)), torch.full((2,), 1.0))
    vector_D = 3 * torch.randn(32, generator=torch.Generator().manual_seed(5))
    Steering(ModifierSettings(kind="steering", layer=0, strength=2.0), gate, vector_D).save(root / "steered")
    return root


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Where weights were read from, in order."""
    release_base()
    seen: list[str] = []
    read = AutoModelForImageTextToText.from_pretrained

    def counted(source: str, **settings: Any) -> Any:
        seen.append(source)
        return read(source, **settings)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", counted)
    return seen


def outputs(loaded: Loaded, base: Path) -> torch.Tensor:
    return torch.cat([logits(loaded.model, loaded, turn) for turn in turns_of(base)[:3]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_after_any_other_model_each_is_to_the_bit_what_a_fresh_process_loads(
    tiny_base: Path, run_folder: Path, reads: list[str], dtype: str
) -> None:
    fresh = []
    for adapters in MODELS:
        release_base()
        fresh.append(outputs(load_ref(tiny_base, *adapters, root=run_folder, dtype=dtype), tiny_base))
    assert len(reads) == len(MODELS)
    assert len({tuple(out.flatten()[:50].tolist()) for out in fresh}) == len(MODELS) - 1, "all differ but the base"
    release_base()
    reads.clear()
    for order in (range(len(MODELS)), reversed(range(len(MODELS)))):
        for index in order:
            loaded = load_ref(tiny_base, *MODELS[index], root=run_folder, dtype=dtype)
            assert torch.equal(outputs(loaded, tiny_base), fresh[index]), MODELS[index]
    assert reads == [str(tiny_base)]


def test_models_that_are_alive_together_do_not_touch_each_other(
    tiny_base: Path, run_folder: Path, tmp_path: Path, reads: list[str]
) -> None:
    one = load_ref(tiny_base, "first", root=run_folder)
    before = outputs(one, tiny_base)
    two = load_ref(tiny_base, root=run_folder)
    assert one.model.get_input_embeddings().weight.data_ptr() == two.model.get_input_embeddings().weight.data_ptr()
    teach(two, tiny_base, tmp_path / "adapter")
    teach(load_ref(tiny_base), tiny_base, tmp_path / "weights", full=True)
    round_weights(load_ref(tiny_base).model, two.family, bits=3)
    load_ref(tiny_base, "pruned", root=run_folder)
    assert torch.equal(outputs(one, tiny_base), before)
    with without_adapter(two.model):
        base = outputs(load_ref(tiny_base), tiny_base)
    release_base()
    assert torch.equal(base, outputs(load_ref(tiny_base), tiny_base))
    assert len(reads) == 3, "the first, after the full training, and after the last release"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_base_that_was_written_to_is_read_again(tiny_base: Path, reads: list[str], dtype: str) -> None:
    before = outputs(load_ref(tiny_base, dtype=dtype), tiny_base)
    with torch.no_grad():
        load_ref(tiny_base, dtype=dtype).model.get_input_embeddings().weight.mul_(2)
    assert torch.equal(outputs(load_ref(tiny_base, dtype=dtype), tiny_base), before)
    assert len(reads) == 2
    # as PEFT merges an adapter: past the count of writes
    load_ref(tiny_base, dtype=dtype).model.lm_head.weight.data[3, 5] += 0.25
    assert torch.equal(outputs(load_ref(tiny_base, dtype=dtype), tiny_base), before)
    assert len(reads) == 3


def test_a_base_whose_files_change_is_read_again(tiny_base: Path, tmp_path: Path, reads: list[str]) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    load_ref(base)
    load_ref(base)
    assert len(reads) == 1
    os.utime(base / "model.safetensors", (1, 1))
    load_ref(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"new": 1}))
    load_ref(base)
    assert len(reads) == 3


def test_one_base_is_kept_and_gone_before_the_next_is_read(
    tiny_base: Path, tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    weight = weakref.ref(load_ref(tiny_base).model.get_input_embeddings().weight.untyped_storage())
    alive = []
    counted = AutoModelForImageTextToText.from_pretrained

    def watched(source: str, **settings: Any) -> Any:
        gc.collect()
        alive.append(weight() is not None)
        return counted(source, **settings)

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", watched)
    load_ref(tiny_base)
    load_ref(other)
    load_ref(tiny_base, dtype="bfloat16")
    assert reads == [str(tiny_base), str(other), str(tiny_base)]
    assert alive == [False, False]


def test_without_room_for_copies_a_base_is_read_for_every_model(
    tiny_base: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllmu.models.loading.WITHOUT_LOOKING", 0)
    monkeypatch.setattr("mllmu.models.devices.free_bytes", lambda _device: 1000)
    load_ref(tiny_base)
    load_ref(tiny_base)
    assert len(reads) == 2
    release_base()
    for _ in range(2):
        load_ref(tiny_base, dtype="bfloat16")  # nothing is merged into it, so nothing is copied
    assert len(reads) == 3


# Adapters beside weights of bfloat16


def test_an_adapted_layer_by_hand() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.data, layer.bias.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, 20.0])
    put_beside(layer, torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [2.0]]))
    put_beside(layer, torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [100.0]]))
    x = torch.tensor([[[1.0, 1.0], [0.0, 2.0]]])
    # W x + b + [2, 4] + [0, 100]; W x + b + [2, 4] + [0, 200]
    assert layer(x).tolist() == [[[3 + 10 + 2, 7 + 20 + 4 + 100], [4 + 10 + 2, 8 + 20 + 4 + 200]]]
    assert layer.merged_OI().tolist() == [[2.0, 3.0], [5.0, 106.0]]
    before = layer(x)
    assert type(fold(layer)) is nn.Linear
    assert torch.equal(layer(x), before)
    with pytest.raises(ValueError, match="an adapter of 2 x 3 for a layer of"):
        put_beside(layer, torch.ones(1, 3), torch.ones(2, 1))


def test_changes_that_shorter_weights_would_swallow_are_kept() -> None:
    """1 + 2^-9 is no bfloat16 number. Over 512 inputs of 1 the change is 512 * 2^-9 = 1."""
    layer = nn.Linear(512, 4, bias=False).to(torch.bfloat16)
    layer.weight.data.fill_(1)
    merged = (layer.weight + 2.0**-9).to(torch.bfloat16)
    put_beside(layer, torch.full((1, 512), 2.0**-5), torch.full((4, 1), 2.0**-4))
    x = torch.ones(1, 512, dtype=torch.bfloat16)
    x[0, 256:] = -1 + 2.0**-7
    truth = layer.merged_OI() @ x[0].float()
    assert torch.equal(F.linear(x, merged)[0].float(), x.float().sum().expand(4)), "merged, nothing changes"
    assert torch.equal(layer(x)[0].float(), truth.to(torch.bfloat16).float())


def test_a_bfloat16_model_is_evaluated_as_it_was_trained(tiny_base: Path, tmp_path: Path) -> None:
    live = load_ref(tiny_base, dtype="bfloat16")
    before = outputs(live, tiny_base)
    model = teach(live, tiny_base, tmp_path / "adapter")
    trained = torch.cat([logits(model, live, turn) for turn in turns_of(tiny_base)[:3]])
    again = load_ref(tiny_base, "adapter", root=tmp_path, dtype="bfloat16")
    target = core(load_ref(tiny_base).model).get_input_embeddings().weight
    assert again.model.get_input_embeddings().weight.dtype == torch.bfloat16 != target.dtype
    change = (trained - before).float().norm()
    assert (outputs(again, tiny_base) - trained).float().norm() < 0.05 * change
    # and a further training starts from exactly that
    further = add_trainable(again.model, again.family, LORA, seed=3).eval()
    start = torch.cat([logits(further, again, turn) for turn in turns_of(tiny_base)[:3]])
    assert torch.equal(start, outputs(load_ref(tiny_base, "adapter", root=tmp_path, dtype="bfloat16"), tiny_base))


def test_what_changes_weights_sees_the_adapters_beside_them(tiny_base: Path, run_folder: Path) -> None:
    name = next(n for n, m in load_ref(tiny_base).model.named_modules() if n.endswith("down_proj"))
    exact = load_ref(tiny_base, "first", root=run_folder).model.get_submodule(name).weight.detach()
    short = load_ref(tiny_base, dtype="bfloat16").model.get_submodule(name).weight.detach().float()
    change = exact - load_ref(tiny_base).model.get_submodule(name).weight.detach()

    loaded = load_ref(tiny_base, "first", root=run_folder, dtype="bfloat16")
    layer = loaded.model.get_submodule(name)
    assert isinstance(layer, AdaptedLinear)
    torch.testing.assert_close(layer.merged_OI(), short + change, atol=1e-2 * float(change.abs().max()), rtol=0)
    wanted = rounded(layer.merged_OI().to(torch.bfloat16), 4)
    round_weights(loaded.model, loaded.family, bits=4)
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, wanted)

    pruned = load_ref(tiny_base, "first", "pruned", root=run_folder, dtype="bfloat16").model.get_submodule(name)
    assert not pruned.merged_OI()[:, ::2].any()
    assert pruned.merged_OI()[:, 1::2].any(dim=0).all()

    full = load_ref(tiny_base, "first", "full", root=run_folder, dtype="bfloat16")
    assert torch.equal(
        outputs(full, tiny_base), outputs(load_ref(tiny_base, "full", root=run_folder, dtype="bfloat16"), tiny_base)
    )
