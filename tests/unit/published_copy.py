"""A small copy of the published data set in its own layout, for tests; and ways to damage it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mllmu.config.recipe import DataSection
from mllmu.core.process import SilentProgress
from mllmu.data import build
from mllmu.data.dataset import Dataset, load
from mllmu.data.published.export import export

NUM_PEOPLE = 20
NUM_CELEBRITIES = 5


def write_copy(folder: Path) -> Dataset:
    """Twenty people and five celebrities, exported as the ten configs into ``folder / 'bench'``."""
    section = DataSection.model_validate(
        {
            "source": {"name": "synthetic", "num_people": NUM_PEOPLE},
            "celebrities": {"name": "celebrities", "num_people": NUM_CELEBRITIES},
            "portraits": {"name": "test_data_build:Painted", "size": 32, "num_views": 4},
            "splits": {"forget_ratios": [0.05, 0.1, 0.15], "holdout": 0},
            "train_wordings": 1,
        }
    )
    build.make(section, 5, folder / "made", SilentProgress())
    dataset = load(folder / "made")
    export(dataset, folder / "bench")
    return dataset


def shards(folder: Path, config: str) -> list[Path]:
    return sorted((folder / config).glob("*.parquet"))


def change(path: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Rewrite a table after an edit of its rows in place; a new list of rows may be returned."""
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows = edit(rows) or rows
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def rename(path: Path, names: dict[str, str]) -> None:
    """Give columns other names, or drop them (empty name)."""
    table = pq.read_table(path)
    kept = [name for name in table.column_names if names.get(name, name)]
    table = table.select(kept)
    pq.write_table(table.rename_columns([names.get(name, name) for name in kept]), path)
