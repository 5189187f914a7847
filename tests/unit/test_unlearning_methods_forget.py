"""Every method makes a finetuned model forget, and those that train on retain keep the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_models import load_ref, nll, training, turns_of

from mllmu.config.recipe import Finetune
from mllmu.core import plugins
from mllmu.models.families import Turn
from mllmu.training.finetune import finetune
from mllmu.unlearning.trainer import Sides, unlearn

FAST: dict[str, Any] = {"learning_rate": 2e-2, "epochs": 8, "batch_size": 4}
SETTINGS: dict[str, dict[str, Any]] = {
    "mmunlearner": FAST,
    # ascent is not bounded
    "grad_diff": FAST | {"modality": "both", "epochs": 6},
    # its forget term sums over the tokens of a reply, the retain term averages
    "sam_npo": FAST | {"modality": "both", "retain_weight": 10.0},
    # the defaults fit the hidden states of a 7B
    "rmu": FAST | {"modality": "both", "epochs": 12, "steering": 50.0, "retain_weight": 5.0},
    # what is known by heart can hardly be reinforced, so much of the little difference is taken off
    "whp": FAST | {"modality": "both", "strength": 20.0},
    "manu": {"modality": "both", "share": 0.2},
    "steering": FAST | {"learning_rate": 1.0, "epochs": 20, "modality": "both"},
    "router": FAST | {"learning_rate": 0.1, "epochs": 20, "modality": "both"},
}
KNOWN = 0.25
"""Nats a token that the target needs for what it was finetuned."""
CHANGING = [
    name
    for name in plugins.names("methods")
    if plugins.find("methods", name).trains or plugins.find("methods", name).modifies
]


def facts(base: Path) -> tuple[list[Turn], list[Turn]]:
    """Two facts about each of three people, asked with the image and by name."""
    with_image = [
        replace(turn, person=turn.image.stem if turn.image else "", topic=("home", "colour")[n % 2])
        for n, turn in enumerate(turns_of(base))
    ]
    return with_image, [replace(turn, image=None, prompt=f"{turn.prompt} {turn.person}") for turn in with_image]


@pytest.fixture(scope="module")
def finetuned(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a target that knows everything by heart."""
    root = tmp_path_factory.mktemp("finetuned")
    with_image, text_only = facts(tiny_base)
    section = Finetune(epochs=80, learning_rate=1e-2, batch_size=12, lora=None)
    finetune(
        load_ref(tiny_base), [*with_image, *text_only], section, training(root / "target", seed=5, lora=section.lora)
    )
    target = load_ref(tiny_base, "target", root=root)
    assert nll(target, [*with_image, *text_only]) < KNOWN
    return root


@pytest.mark.parametrize("name", CHANGING)
def test_a_method_forgets_what_the_target_knows_and_with_a_retain_term_keeps_the_rest(
    tiny_base: Path, finetuned: Path, tmp_path: Path, name: str
) -> None:
    with_image, text_only = facts(tiny_base)
    method = plugins.build("methods", name, SETTINGS.get(name, FAST | {"modality": "both"}))
    forget = [*with_image[:2], *text_only[:2]] if method.modality == "both" else with_image[:2]
    retain = [*with_image[2:], *(text_only if method.preserves_text else text_only[2:])]
    # two people nobody finetuned the model, one asked with an image and one by name
    holdout = [
        replace(with_image[0], reply="teal"),
        replace(text_only[0], prompt="Where does Nobody live?", reply="Oslo"),
    ]
    target = load_ref(tiny_base, "target", root=finetuned)
    unlearn(target, method, Sides(forget=forget, retain=retain, holdout=holdout), training(tmp_path, seed=1))
    after = load_ref(tiny_base, str(finetuned / "target"), str(tmp_path), root=tmp_path)
    assert nll(after, forget) > KNOWN + 0.4
    if method.trains and method.uses_retain:
        assert nll(after, retain) < 1.3
        assert nll(after, forget) > nll(after, retain) + 0.15
    if name == "holdout_match":
        level = nll(load_ref(tiny_base, "target", root=finetuned), holdout)
        assert nll(after, forget) < level + 1.0, "facts were pushed far below their level"
