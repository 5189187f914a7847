"""A model without a family of its own, cut images and all, is asked by its chat template alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers_families import build
from helpers_models import LORA, load_ref, turns_of
from torch import nn
from transformers import AutoModelForImageTextToText

from mllmu.core.errors import ModelError
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Turn
from mllmu.models.loading import add_trainable, load_base
from mllmu.training.losses import answer_nll


def test_a_model_the_families_do_not_know_is_encoded_trained_and_asked(tmp_path: Path) -> None:
    base = build("aya_vision", tmp_path)
    loaded = load_ref(base)
    assert loaded.family.name == "auto"
    turns = [*turns_of(base), Turn(prompt="Who?", reply="Riga")]
    batch = loaded.encoder.batch(turns)
    with torch.no_grad():
        own = loaded.model(**batch.inputs).logits[:, :-1][batch.labels[:, 1:] != -100]
    torch.testing.assert_close(run_forward(loaded.model, batch).logits_NV, own, atol=1e-5, rtol=1e-4)
    alone = [run_forward(loaded.model, loaded.encoder.batch([turn])).row_logp_B.item() for turn in turns]
    assert run_forward(loaded.model, batch).row_logp_B.tolist() == pytest.approx(alone, abs=1e-3)
    assert loaded.family.prompt_ids(turns[1], loaded.encoder.processor)[0] == loaded.encoder.prompt(turns[1])
    assert loaded.encoder.prompt(replace(turns[0], system="No.")) != loaded.encoder.prompt(turns[0])

    model = add_trainable(loaded.model, loaded.family, LORA, seed=0)
    answer_nll(run_forward(model, batch)).backward()
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("language_model" in name for name in trained)


def test_a_model_without_a_head_apart_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    headless = nn.Linear(1, 1), {"missing_keys": []}
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: headless)
    with pytest.raises(ModelError, match=r"Linear has no part 'model'.*lm_head\(model"):
        load_base("anywhere", None, torch.device("cpu"))
