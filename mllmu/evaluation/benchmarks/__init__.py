"""General benchmarks: does a model still do what it did, on questions that have nothing to do with the people?"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from PIL.Image import Image
from pydantic import Field

from mllmu.core.declared import SplitInfo
from mllmu.core.plugins import Plugin
from mllmu.core.records import Sample, Split


class Skipped(NamedTuple):
    """A row that is not asked, and why."""

    config: str
    row: int
    id: str
    reason: str


class Asked(NamedTuple):
    """A question, and what loads its image; ``sample.image`` is filled in when the image is stored."""

    sample: Sample
    load: Callable[[], Image]


class Benchmark(Plugin, ABC):
    """Base of the general benchmarks; each is a set of its own beside retain and celebrity.

    The name of the plug-in is the name of its set. A subclass sets ``label`` (the title of its set in tables and
    plots), ``metrics`` (added to those of the recipe), ``headline`` (the one of them that judges all its questions, if
    the metrics of their tasks do not), and ``free_answers`` (its questions are free, so that judges can give points).

    Settings:
        path: a local copy, or the name of the repository on the hub.
        revision: commit, tag or branch on the hub.
        num_questions: only the first n questions.
        max_new_tokens: most tokens a reply may have.
    """

    label: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    headline: ClassVar[str] = ""
    free_answers: ClassVar[bool] = False

    path: Path = Field(description="folder of the benchmark's files, or its name on the hub")
    revision: str | None = Field(None, description="commit, tag or branch on the hub")
    num_questions: int | None = Field(None, gt=0, le=10**6, description="only the first n questions")
    max_new_tokens: int = Field(32, gt=0, le=100_000, description="longest reply, in tokens")

    @property
    def name(self) -> Split:
        """The plug-in's name, which is that of its set; of a benchmark by a path, the name of its class."""
        return super().name.rpartition(":")[2]

    def info(self) -> SplitInfo:
        """What a report needs to know about the set."""
        return SplitInfo(label=self.label, kind="benchmark", metric=self.headline)

    @abstractmethod
    def read(self) -> Iterator[Asked | Skipped]:
        """All questions in published order, and every row that cannot be asked.

        Raises:
            DataError: the data set is missing or has another schema.
        """

    def sample(self, key: str, **fields: Any) -> Sample:
        """The sample of one question about an image; ``key`` names it within the benchmark."""
        return Sample(
            id=f"{self.name}/{key}",
            question_id=key,
            profile_id=key,
            split=self.name,
            modality="image_text",
            max_new_tokens=self.max_new_tokens,
            **fields,
        )
