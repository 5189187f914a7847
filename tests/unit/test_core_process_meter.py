"""What a training costs, counted by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers_models import turns_of

from mllmu.core import process
from mllmu.core.process import metered, start_meter, stop_meter
from mllmu.models.engine.forward import run_forward
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.training.batches import pack


def test_padding_is_not_read(loaded: Loaded, tiny_base: Path) -> None:
    turns = [*turns_of(tiny_base), Turn(prompt="Who?", reply="a")]
    batch, packed = loaded.encoder.batch(turns), pack(loaded, turns)
    assert batch.num_tokens == int(batch.inputs["attention_mask"].sum()) < batch.labels.numel()
    positions_BT = packed.inputs["position_ids"]
    ends_B = (torch.arange(1, positions_BT.shape[1] + 1) * (positions_BT > 0)).amax(-1)
    assert packed.num_tokens == int(ends_B.sum()) < packed.labels.numel()


def test_speed_is_tokens_over_the_seconds_of_training_alone(
    loaded: Loaded, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(process, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    batches = [loaded.encoder.batch(turns_of(tiny_base)[:count]) for count in (1, 2)]
    facts: dict[str, Any] = {}
    with metered(facts), torch.no_grad():
        run_forward(loaded.model, batches[0])  # measured before training: not part of it
        start_meter(17)
        for batch in batches:
            run_forward(loaded.model, batch)
        stop_meter()
        run_forward(loaded.model, batches[0])
    tokens = sum(batch.num_tokens for batch in batches)
    assert facts == {"trainable": 17, "tokens_per_s": round(tokens / 4, 1)}, "in 4 seconds, to one decimal"


def test_without_a_training_nothing_is_claimed(loaded: Loaded, tiny_base: Path) -> None:
    batch = loaded.encoder.batch(turns_of(tiny_base)[:1])
    facts: dict[str, Any] = {}
    with metered(facts), torch.no_grad():
        run_forward(loaded.model, batch)
    assert facts == {}
    start_meter(2)
    with torch.no_grad():
        run_forward(loaded.model, batch)
    stop_meter()
