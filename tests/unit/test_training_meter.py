"""What a training costs, counted by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mllmu.models.families import Batch
from mllmu.training import meter
from mllmu.training.meter import metered, num_tokens
from mllmu.training.packing import attention_mask


def plain(*lengths: int) -> Batch:
    width = max(lengths)
    mask_BT = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return Batch(inputs={"input_ids": torch.zeros_like(mask_BT), "attention_mask": mask_BT}, labels=mask_BT)


def packed() -> Batch:
    """Two rows of six: a prefix of two tokens with replies of two and one, and a prefix of one with a reply of one."""
    positions_BT = torch.tensor([[0, 1, 2, 3, 2, 0], [0, 1, 0, 0, 0, 0]])
    group_BT = torch.tensor([[0, 0, 0, 0, 0, -1], [0, 0, -1, -1, -1, -1]])
    mask = attention_mask(group_BT, torch.zeros_like(group_BT), torch.float32)
    return Batch(
        inputs={"input_ids": positions_BT, "attention_mask": mask, "position_ids": positions_BT}, labels=positions_BT
    )


def test_padding_is_not_read() -> None:
    assert int(num_tokens(plain(3, 5))) == 8
    assert int(num_tokens(packed())) == 7


def test_speed_is_tokens_over_the_seconds_of_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 14.0])
    monkeypatch.setattr(meter, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    facts: dict[str, Any] = {}
    with metered(facts):
        meter.count(plain(100))  # measured before training: not part of it
        meter.begin([torch.zeros(3, 4), torch.zeros(5)])
        meter.count(plain(3, 5))
        meter.count(packed())
        meter.end()
        meter.count(plain(100))
    assert facts == {"trainable": 17, "tokens_per_s": 3.8}, "15 tokens in 4 seconds, to one decimal"


def test_without_a_training_nothing_is_claimed() -> None:
    facts: dict[str, Any] = {}
    with metered(facts):
        meter.count(plain(3))
    assert facts == {}
    meter.begin([torch.zeros(2)])
    meter.count(plain(3))
    meter.end()
