"""Fine-tuning: the model knows the turns afterwards, and the saved model is the trained one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_models import LORA, Watcher, load_ref, logits, nll, training, turns_of

from mllmu.config.recipe import Finetune, Lora
from mllmu.core.errors import DataError
from mllmu.models.loading import Loaded
from mllmu.training.checkpoint import CHECKPOINT
from mllmu.training.finetune import finetune
from mllmu.training.loop import CURVE, Training

SECTION = Finetune(epochs=15, learning_rate=1e-2, batch_size=3, lora=LORA)


def of(section: Finetune, folder: Path, **settings: Any) -> Training:
    return training(folder, **{"label": "target", "seed": 5, "lora": section.lora, "checkpoint_every_s": 0, **settings})


def train(base: Path, folder: Path, *, section: Finetune = SECTION, label: str = "target", people: int = 3) -> Loaded:
    ready = load_ref(base)
    turns = turns_of(base)[: 2 * people]
    finetune(ready, turns, section, of(section, folder, label=label))
    return ready


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_the_saved_model_has_learned_the_turns(tiny_base: Path, tmp_path: Path, lora: Lora | None) -> None:
    turns, base = turns_of(tiny_base), load_ref(tiny_base)
    live = train(tiny_base, tmp_path / "finetuned", section=SECTION.model_copy(update={"lora": lora}))
    finetuned = load_ref(tiny_base, "finetuned", root=tmp_path)
    assert nll(finetuned, turns) < nll(base, turns) - 1.0
    assert nll(finetuned, turns) == pytest.approx(nll(live, turns), abs=1e-3)
    curve = json.loads((tmp_path / "finetuned" / CURVE).read_text())
    assert [point["step"] for point in curve] == list(range(30)), "15 epochs of two steps"
    assert curve[0]["nll"] > curve[-1]["nll"]


def test_the_first_loss_is_the_mean_nll_of_the_reply_tokens(tiny_base: Path, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"epochs": 1, "batch_size": 6})
    train(tiny_base, tmp_path, section=section)
    (point,) = json.loads((tmp_path / CURVE).read_text())
    assert point["nll"] == pytest.approx(nll(load_ref(tiny_base), turns_of(tiny_base)), abs=1e-4)


def test_finetuning_is_reproducible_and_depends_on_the_people(tiny_base: Path, tmp_path: Path) -> None:
    turn = turns_of(tiny_base)[0]
    section = SECTION.model_copy(update={"epochs": 2, "lora": LORA.model_copy(update={"dropout": 0.3})})
    first, again = (train(tiny_base, tmp_path / name, section=section) for name in ("a", "b"))
    other = train(tiny_base, tmp_path / "c", section=section, people=2)
    assert torch.equal(logits(first.model, first, turn), logits(again.model, again, turn))
    assert not torch.equal(logits(first.model, first, turn), logits(other.model, other, turn))


def test_models_with_other_names_start_alike(tiny_base: Path, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"epochs": 2})
    for label in ("target", "retain_model"):
        train(tiny_base, tmp_path / label, section=section, label=label)
    target, retain = ((tmp_path / label / CURVE).read_text() for label in ("target", "retain_model"))
    assert target == retain, "without dropout the name of a model must not matter"


def test_a_killed_finetuning_goes_on_where_it_was(tiny_base: Path, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"epochs": 3, "lora": LORA.model_copy(update={"dropout": 0.3})})
    turn, plain = turns_of(tiny_base)[0], train(tiny_base, tmp_path / "plain", section=section)

    class Killer(Watcher):
        def advance(self, n: int = 1, **facts: float) -> None:
            super().advance(n, **facts)
            if self.done == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(load_ref(tiny_base), turns_of(tiny_base), section, of(section, tmp_path / "killed", progress=Killer()))
    assert (tmp_path / "killed" / CHECKPOINT).exists()
    resumed = train(tiny_base, tmp_path / "killed", section=section)
    assert torch.equal(logits(resumed.model, resumed, turn), logits(plain.model, plain, turn))
    assert (tmp_path / "killed" / CURVE).read_text() == (tmp_path / "plain" / CURVE).read_text()


@pytest.mark.parametrize(("targets", "said"), [(r".*\.(q_proj|v_proj)", True), (r".*language_model.*q_proj", False)])
def test_adapters_outside_the_language_model_are_named(
    tiny_base: Path, tmp_path: Path, targets: str, *, said: bool
) -> None:
    section = SECTION.model_copy(update={"epochs": 0.5, "lora": LORA.model_copy(update={"targets": targets})})
    watcher = Watcher()
    finetune(load_ref(tiny_base), turns_of(tiny_base)[:2], section, of(section, tmp_path, progress=watcher))
    lines = [line for line in watcher.notes if "outside the language model, e.g. model.vision_tower" in line]
    assert len(lines) == said


def test_nothing_to_train_on_is_an_error(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"target: no question to train on\. Check data\.source"):
        finetune(loaded, [], SECTION, of(SECTION, tmp_path))
