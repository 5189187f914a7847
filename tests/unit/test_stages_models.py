"""Loading the models of a run: what is said when they cannot be packed."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_models import Watcher

from mllmu.models.families.llava import Llava
from mllmu.recipe import parse
from mllmu.records import ModelRef
from mllmu.stages.context import Context
from mllmu.stages.models import Models


@pytest.mark.parametrize(("shares", "packing", "notes"), [(False, "auto", 1), (True, "auto", 0), (False, "off", 0)])
def test_training_without_packing_is_said_once(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool, packing: str, notes: int
) -> None:
    monkeypatch.setattr(Llava, "shares_prefix", shares)
    watcher = Watcher()
    recipe = parse({"name": "x", "model": {"path": str(tiny_base), "packing": packing, "device": "cpu"}})
    models = Models(Context(recipe, tmp_path, watcher))
    for _ in range(2):
        assert models.load(ModelRef(base=str(tiny_base))).packs == (shares and packing == "auto")
    assert len(watcher.notes) == notes
    assert all("'llava' are trained one question a row" in note for note in watcher.notes)
