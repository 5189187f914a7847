"""What the units of ``mllmu sweep --device`` ask an engine for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from mllmu.cli.run import RecipeRun
from mllmu.cli.sweep import Wanted
from mllmu.config.load import parse

KINDS = ("data", "make", "ask", "gate", "attack", "finish")


def asked(monkeypatch: pytest.MonkeyPatch, device: str | None, peaks: Sequence[float]) -> list[float]:
    """Shares of a GPU of 40 GiB, or GiB of memory, by kind of unit; ``peaks`` are GiB of the stages of a plan."""
    planned = SimpleNamespace(stages=[SimpleNamespace(peak=peak) for peak in peaks], memory=40.0)
    monkeypatch.setattr("mllmu.preflight.plan.plan.make_plan", lambda *_: planned)
    wanted = Wanted([RecipeRun("", parse({"name": "swept"}), Path("runs/swept"))], device)
    wanted.gpus = True
    found = [wanted("", kind) for kind in KINDS]
    return [each.memory / 2**30 if device == "cpu" else each.gpus for each in found]


def test_the_gate_asks_the_target_and_so_wants_what_asking_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes 12 or 18 of 40 GiB, so two fit; asking 9, so four do."""
    assert asked(monkeypatch, "a100-40gb", [12, 18, 9]) == [1 / 2, 1 / 2, 1 / 4, 1 / 4, 1 / 2, 1 / 2]
    assert asked(monkeypatch, "cpu", [12, 18, 9]) == [18, 18, 9, 9, 18, 18]
    assert asked(monkeypatch, "a100-40gb", [12, 30]) == [1, 1 / 3, 1, 1, 1, 1]


def test_without_training_all_units_want_what_asking_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, "a100-40gb", [9]) == [1 / 4] * 6


def test_without_a_device_every_unit_wants_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, None, []) == [1] * 6
