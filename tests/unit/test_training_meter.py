"""What a training costs, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mllmu.models.engine import meter
from mllmu.models.engine.meter import metered, num_tokens
from mllmu.models.families import Batch


def plain(*lengths: int) -> Batch:
    width = max(lengths)
    mask_BT = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return Batch(inputs={"input_ids": torch.zeros_like(mask_BT), "attention_mask": mask_BT}, labels=mask_BT)


def packed() -> Batch:
    """Two rows of six: a prefix of two tokens with replies of two and one, and a prefix of one with a reply of one."""
    positions_BT = torch.tensor([[0, 1, 2, 3, 2, 0], [0, 1, 0, 0, 0, 0]])
    inputs = {"input_ids": positions_BT, "attention_mask": torch.zeros(2, 1, 6, 6), "position_ids": positions_BT}
    return Batch(inputs=inputs, labels=positions_BT, replies=positions_BT, num_replies=4)


def along_three_axes() -> Batch:
    """The same rows, with a position on each of three axes, and masks by the kind of layer."""
    one = packed()
    positions_3BT = one.inputs["position_ids"].expand(3, -1, -1)
    return replace(one, inputs={"input_ids": one.labels, "position_ids": positions_3BT}, masks={"full": one.labels})


def test_padding_is_not_read() -> None:
    assert int(num_tokens(plain(3, 5))) == 8
    assert int(num_tokens(packed())) == int(num_tokens(along_three_axes())) == 7


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
