"""`compat: official`: which settings of a method it stands for, and that they do what the released scripts do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import load_ref, training, turns_of
from safetensors.torch import load_file

from mllmu.config.load import parse
from mllmu.core import plugins
from mllmu.core.errors import RecipeError
from mllmu.models.families import IGNORE, Batch
from mllmu.models.labels import without_ends
from mllmu.training.loop import Schedule
from mllmu.unlearning.trainer import Sides, unlearn

COMMON = {"loss_on": "all", "train_end": False, "layers": "published"}
EXPECTED: dict[str, dict[str, Any]] = {
    "ga": COMMON,
    "grad_diff": {**COMMON, "schedule": "two_phase", "decay": "none"},
    "kl_min": {**COMMON, "schedule": "two_phase", "decay": "none", "reduction": "batchmean", "add_ce": True},
    "npo": {**COMMON, "reduction": "token_mean", "reference": "retain_model"},
}
"""What benchmark.md's list of differences between the published formulas and the published code comes to."""


@pytest.mark.parametrize("name", EXPECTED)
def test_official_stands_for_exactly_these_settings(name: str) -> None:
    plain = plugins.build("methods", name, {}).model_dump()
    official = plugins.build("methods", name, {"compat": "official"}).model_dump()
    assert {k: v for k, v in official.items() if v != plain[k]} == {"compat": "official", **EXPECTED[name]}
    assert (official["learning_rate"], official["batch_size"]) == (2e-5, 4)


def test_a_setting_beside_it_wins_and_methods_without_a_script_refuse_it() -> None:
    method = plugins.build("methods", "npo", {"compat": "official", "reference": "target"})
    assert (method.reference, method.reduction) == ("target", "token_mean")
    with pytest.raises(RecipeError, match=r"unlearn\.methods\[0\].*no script of this method"):
        parse({"name": "x", "unlearn": {"methods": [{"name": "simnpo", "compat": "official"}]}})
    assert {name for name in plugins.names("methods") if plugins.find("methods", name).official} == set(EXPECTED)


def test_the_ends_of_replies_leave_the_labels() -> None:
    batch = Batch(inputs={}, labels=torch.tensor([[IGNORE, 5, 2, IGNORE], [7, 2, 9, 3]]))
    assert without_ends(batch, frozenset({2, 3})).labels.tolist() == [[-100, 5, -100, -100], [7, -100, 9, -100]]


def test_a_learning_rate_that_does_not_decay_is_the_same_in_every_step() -> None:
    assert [Schedule(num_steps=3, learning_rate=0.1, decay=False).rate(step) for step in range(3)] == [0.1] * 3
    assert Schedule(num_steps=2, learning_rate=0.1).rate(1) == pytest.approx(0.05)


@pytest.mark.parametrize("name", EXPECTED)
def test_official_adapts_the_vision_tower_and_trains_no_end(tiny_base: Path, tmp_path: Path, name: str) -> None:
    loaded = load_ref(tiny_base)
    turns = turns_of(tiny_base)
    reference = load_ref(tiny_base, encoder=loaded.encoder) if name == "npo" else None
    sides = Sides(forget=turns[:2], retain=turns[2:4], reference=reference)
    method = plugins.build("methods", name, {"compat": "official", "batch_size": 2, "epochs": 1})
    unlearn(loaded, method, sides, training(tmp_path, seed=1, label=name))
    saved = load_file(tmp_path / "adapter_model.safetensors")
    towers = {key.partition("vision_tower.")[2].split(".")[-3] for key in saved if "vision_tower" in key}
    assert towers == {"q_proj", "k_proj", "v_proj"}
    changed = [key for key, weight in saved.items() if "vision_tower" in key and "lora_B" in key and weight.any()]
    assert changed, "the tower's adapters are trained, not only there"
    assert not any("multi_modal_projector" in key for key in saved)
