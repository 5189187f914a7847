"""Several adapters as one: the same change of weights, and nothing that tells the parts apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mllmu.core.errors import RunStoreError
from mllmu.models.modifiers import ModifierSettings, write_settings
from mllmu.requests.combined import combine, read_factors

LAYERS = {"model.a": (6, 5), "model.b": (4, 7)}


def adapter(folder: Path, rank: int, alpha: float, layers: dict[str, tuple[int, int]], seed: int) -> Path:
    folder.mkdir()
    random = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, inside) in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, inside, generator=random)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(out, rank, generator=random)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": "model.*", "lora_dropout": 0.05}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def changes(folder: Path) -> dict[str, torch.Tensor]:
    return {name: up_OR @ down_RI for name, (down_RI, up_OR) in read_factors(folder).items()}


def test_the_sum_of_two_adapters_is_one_adapter_with_layers_of_both(tmp_path: Path) -> None:
    one = adapter(tmp_path / "one", 2, 8, LAYERS, 1)
    two = adapter(tmp_path / "two", 3, 1.5, {"model.b": LAYERS["model.b"]}, 2)
    largest = combine([one, two], tmp_path / "sum")
    whole, parts = changes(tmp_path / "sum"), [changes(one), changes(two)]
    assert set(whole) == set(LAYERS) and largest < 1e-5
    torch.testing.assert_close(whole["model.a"], parts[0]["model.a"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole["model.b"], parts[0]["model.b"] + parts[1]["model.b"], atol=1e-5, rtol=1e-5)
    config = json.loads((tmp_path / "sum/adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 5 and config["target_modules"] == ["model.a", "model.b"]


def test_no_row_of_the_new_factors_is_one_of_the_old(tmp_path: Path) -> None:
    one, two = (adapter(tmp_path / str(n), 2, 4, LAYERS, n) for n in (1, 2))
    combine([one, two], tmp_path / "sum")
    new = load_file(tmp_path / "sum/adapter_model.safetensors")
    for old in (load_file(one / "adapter_model.safetensors"), load_file(two / "adapter_model.safetensors")):
        for name, rows in old.items():
            if "lora_A" in name:
                alike = torch.nn.functional.cosine_similarity(rows[:, None], new[name][None], dim=-1).abs()
                assert float(alike.max()) < 0.9999


def test_what_is_no_plain_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunStoreError, match="no low-rank adapter"):
        combine([tmp_path], tmp_path / "sum")
    odd = adapter(tmp_path / "odd", 2, 4, LAYERS, 1)
    config = json.loads((odd / "adapter_config.json").read_text())
    (odd / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(RunStoreError, match="only plain"):
        combine([odd], tmp_path / "sum")


def test_a_modifier_is_never_taken_for_an_adapter(tmp_path: Path) -> None:
    """``whp`` trains an adapter that strengthens what is to be forgotten, beside a file that says how to use it."""
    adapter(tmp_path / "a", 2, 4, LAYERS, 1)
    write_settings(tmp_path / "a", ModifierSettings(kind="logit_steering", strength=2.0))
    with pytest.raises(RunStoreError, match="a modifier, which cannot be put into one adapter"):
        combine([tmp_path / "a"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
