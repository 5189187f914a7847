"""What every stage needs: the recipe, the run folder, and the data once they are there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from mllmu.data import build
from mllmu.data.splits import HOLDOUT
from mllmu.progress import Progress
from mllmu.recipe import Recipe
from mllmu.runstore import RunStore, Unit, write_atomic

ELAPSED = "elapsed.json"


class Context:
    """One run: its recipe, folder, unit store and data."""

    def __init__(self, recipe: Recipe, root: Path, progress: Progress) -> None:
        self.recipe = recipe
        self.root = root
        self.progress = progress
        self.store = RunStore(root)

    def data_unit(self) -> Unit:
        """The unit of the data; it depends on its settings, the seed, and the content of the files they name."""
        section = self.recipe.data
        files = [section.source.settings.get("path"), section.splits.file]
        hashes = {str(path): file_digest(Path(path)) for path in files if path and Path(path).is_file()}
        inputs = {"seed": self.recipe.seed, "settings": section.model_dump(mode="json"), "files": hashes}
        return self.store.unit("data", inputs)

    @cached_property
    def dataset(self) -> build.Dataset:
        return build.load(self.root / "data")

    @property
    def keys(self) -> list[str]:
        """The forget ratios in percent."""
        return [key for key in self.dataset.splits if key != HOLDOUT]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, first 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@contextmanager
def timed(unit: Unit) -> Iterator[dict[str, Any]]:
    """Measure the work on a unit; ``seconds`` includes what interrupted attempts had spent."""
    facts: dict[str, Any] = {}
    path = unit.building / ELAPSED
    before = float(json.loads(path.read_text())) if path.is_file() else 0.0
    start = time.monotonic()
    try:
        yield facts
    finally:
        facts["seconds"] = round(before + time.monotonic() - start, 3)
        if unit.building.is_dir():
            write_atomic(path, json.dumps(facts["seconds"]))
