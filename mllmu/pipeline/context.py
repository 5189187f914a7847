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

from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.progress import Progress
from mllmu.core.runfolder import RunStore, Unit, digest, write_atomic
from mllmu.data import build
from mllmu.data.dataset import Dataset, load

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
        inputs = {"seed": self.recipe.seed, "settings": self._data_settings(), "files": self._files}
        return self.store.unit("data", inputs)

    def _data_settings(self) -> dict[str, Any]:
        """All settings but those that only say how patiently, or for how much, an endpoint is asked."""
        settings: dict[str, Any] = self.recipe.data.model_dump(mode="json")
        for part, kind in (("source", "sources"), ("questions", "questions")):
            operational = plugins.find(kind, settings[part]["name"]).operational
            settings[part] = {name: value for name, value in settings[part].items() if name not in operational}
        return settings

    @cached_property
    def _files(self) -> dict[str, str]:
        """Digests of the files and folders that the settings of the data name, by path."""
        section = self.recipe.data
        used = (*build.sources(section), section.portraits.build("portraits", "data.portraits"))
        paths = [section.splits.file, section.review, *(path for plugin in used if plugin for path in plugin.files())]
        return {str(path): content_digest(path) for path in paths if path and path.exists()}

    @cached_property
    def dataset(self) -> Dataset:
        return load(self.root / "data")

    @property
    def keys(self) -> list[str]:
        """The forget ratios in percent."""
        return self.dataset.keys


def content_digest(path: Path) -> str:
    """SHA-256 of a file's content, or of the names and contents of all files in a folder; first 16 hex digits."""
    if path.is_dir():
        files = {f.relative_to(path).as_posix(): f for f in sorted(path.rglob("*")) if f.is_file()}
        return digest({name: content_digest(file) for name, file in files.items()})
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
