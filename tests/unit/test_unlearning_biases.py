"""Bases whose layers have biases, trained without adapters: the copies are trained, and what is kept covers them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_families import build
from helpers_models import load_ref, training, turns_of
from PIL import Image
from torch import Tensor

from mllmu.core import plugins
from mllmu.models.encoding import Loaded
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Turn
from mllmu.models.modifiers import MODIFIER_FILE
from mllmu.models.weights import WEIGHTS_FILE
from mllmu.unlearning.trainer import Sides, unlearn

FAST: dict[str, Any] = {"epochs": 3, "batch_size": 2, "learning_rate": 0.02}


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava_onevision"])
def biased_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose query, key and value layers have biases, and its images."""
    return build(request.param, tmp_path_factory.mktemp(request.param))


def forget(loaded: Loaded, name: str, folder: Path, *, reference: Loaded | None = None, **settings: Any) -> None:
    """Run a method without adapters on all turns of the base, half of them to be kept."""
    turns = turns_of(folder.parent / "images")
    sides = Sides(forget=turns[:4], retain=turns[4:], reference=reference)
    unlearn(loaded, plugins.build("methods", name, FAST | settings), sides, training(folder, lora=None))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run folder with images."""
    (tmp_path / "images").mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (48, 48), colour).save(tmp_path / "images" / f"{colour}.png")
    return tmp_path


def logits(loaded: Loaded, turns: list[Turn]) -> Tensor:
    with torch.no_grad():
        return run_forward(loaded.model, loaded.encoder.batch(turns)).logits_NV


@pytest.mark.parametrize("name", ["npo", "kl_min"])
def test_the_reference_and_later_models_of_the_base_keep_every_weight(biased_base: Path, root: Path, name: str) -> None:
    reference, start = load_ref(biased_base), load_ref(biased_base)
    before = {key: value.clone() for key, value in reference.model.state_dict().items()}
    forget(start, name, root / name, reference=reference)
    after = reference.model.state_dict()
    assert [key for key, value in before.items() if not torch.equal(value, after[key])] == []
    changed = [key for key, value in before.items() if not torch.equal(value, start.model.state_dict()[key])]
    assert any(key.endswith("v_proj.bias") for key in changed), "biases are trained with their layers"
    loaded = load_ref(biased_base, name, root=root)
    for key in changed:
        assert torch.equal(loaded.model.state_dict()[key], start.model.state_dict()[key])


def test_biases_of_the_vision_tower_are_copied_too(tiny_base: Path, root: Path) -> None:
    reference, start = load_ref(tiny_base), load_ref(tiny_base)
    before = {key: value.clone() for key, value in reference.model.state_dict().items()}
    forget(start, "npo", root / "npo", reference=reference, layers="published")
    after = reference.model.state_dict()
    assert [key for key, value in before.items() if not torch.equal(value, after[key])] == []


def test_logits_are_steered_by_changed_biases_too(biased_base: Path, root: Path) -> None:
    turns = turns_of(root / "images")
    forget(load_ref(biased_base), "whp", root / "whp", strength=3.0)
    target, steered = logits(load_ref(biased_base), turns), logits(load_ref(biased_base, "whp", root=root), turns)
    (root / "whp" / MODIFIER_FILE).rename(root / "aside")
    assert (root / "whp" / WEIGHTS_FILE).is_file()
    reinforced = logits(load_ref(biased_base, "whp", root=root), turns)
    assert (reinforced - target).abs().max() > 0.1
    torch.testing.assert_close(steered, target - 3 * (reinforced - target).relu(), atol=2e-3, rtol=1e-3)
