"""General benchmarks: does a model still do what it did, on questions that have nothing to do with the people?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from PIL.Image import Image
from pydantic import Field

from mllmu.core.plugins import Plugin
from mllmu.core.records import Sample, Split
from mllmu.data.published.store import Table, decode_image


class Skipped(NamedTuple):
    """A row that is not asked, and why."""

    config: str
    row: int
    id: str
    reason: str


class Asked(NamedTuple):
    """A question with its image, if it has one; ``sample.image`` is filled in by whoever stores the image."""

    sample: Sample
    table: Table
    row: int
    column: str

    def load(self) -> Image:
        return decode_image(self.table.cell(self.row, self.column), f"{self.table.where(self.row)}, {self.column}")


class Benchmark(Plugin, ABC):
    """Base of the general benchmarks; each is a set of its own beside retain and celebrity.

    A subclass sets ``split`` (the name of its set in every table) and ``metrics`` (added to those of the recipe).

    Settings:
        path: a local copy, or the name of the repository on the hub.
        revision: commit, tag or branch on the hub.
        num_questions: only the first n questions.
    """

    split: ClassVar[Split]
    metrics: ClassVar[tuple[str, ...]]

    path: Path
    revision: str | None = None
    num_questions: int | None = Field(default=None, gt=0)

    @abstractmethod
    def read(self) -> Iterator[Asked | Skipped]:
        """All questions in published order, and every row that cannot be asked.

        Raises:
            DataError: the data set is missing or has another schema.
        """
