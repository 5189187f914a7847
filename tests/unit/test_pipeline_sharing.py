"""Loading the models of a run: what is said when nothing can be shared."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_models import Watcher

from mllmu.config.load import parse
from mllmu.core.records import ModelRef
from mllmu.models.families.llava import Llava
from mllmu.pipeline.run import Run


@pytest.mark.parametrize(("shares", "packing", "notes"), [(False, "auto", 2), (True, "auto", 0), (False, "off", 1)])
def test_what_is_not_shared_is_said_once(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: bool, packing: str, notes: int
) -> None:
    monkeypatch.setattr(Llava, "shares_prefix", shares)
    watcher = Watcher()
    recipe = parse({"name": "x", "model": {"path": str(tiny_base), "packing": packing, "device": "cpu"}})
    run = Run(recipe, tmp_path, watcher)
    for _ in range(2):
        assert run.load(ModelRef(base=str(tiny_base))).packs == (shares and packing == "auto")
    assert len(watcher.notes) == notes
    said = ["'llava' read every prompt again per candidate", "'llava' are trained one question per row"]
    assert all(text in note for text, note in zip(said, reversed(watcher.notes), strict=False))
