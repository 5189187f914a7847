"""MLLMU-Bench as published: the whole data set, or its training text alone.

A text file holds one person per line, ``{"ID": "001", "metadata": [{"Question": ..., "Answer": ...}, ...]}``.
Attributes are recovered from the text by rules, see :mod:`mllmu.data.published.recover`; the text itself is kept word
for word.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.data.files import misfit, read_text
from mllmu.data.published.content import PublishedData
from mllmu.data.published.reader import BenchmarkReader
from mllmu.data.published.recover import RecoveredPerson, Recovery, recover_person, summarise
from mllmu.data.published.schema import CELEBRITIES
from mllmu.data.published.store import Store, Table, downloaded, is_hub_name
from mllmu.data.sources import Published

_SHAPE = '{"ID": "001", "metadata": [{"Question": "...", "Answer": "..."}, ...]}'
_EXPECTED = f"Expected the training text as JSON lines, {_SHAPE} per line."
_EVALUATION_KEY = re.compile(r'"(?:Classification_Task|Generation_Task|Mask_Task)"\s*:')

_Text = Annotated[str, Field(min_length=1, max_length=2_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Pair(_Strict):
    Question: _Text
    Answer: _Text


class _Line(_Strict):
    ID: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    metadata: list[_Pair] = Field(min_length=1)


class MllmuBench(Published):
    """MLLMU-Bench as published: from the hub, a local copy of its parquet tables, or its training text alone.

    With tables, everything is used as it is: training text, questions, portraits, transformed portraits and forget
    sets; celebrities are ``part: celebrities`` (the config Retain_Set). Flaws of the text and rows that cannot be used
    are counted and listed in ``data/source.json``. With a JSON lines file (one person per line, ``{"ID", "metadata"}``)
    there is the training text only, and questions and portraits are made.

    Attributes are recovered from the training text by rules, and from the biography where the text says nothing; what
    cannot be read is missing and listed by :meth:`report`, never guessed.

    Raises:
        DataError: the file, folder or repository is missing or damaged; a config, column or shard is missing; tables
            for evaluation are given where training text is needed; the celebrities stand in for the retained people;
            an image cannot be decoded; no people, or fewer than ``num_people``, can be used.

    Source: https://arxiv.org/abs/2410.22108 (the Hub data set MLLMMU/MLLMU-Bench).
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    filled: ClassVar[tuple[str, ...]] = ("train",)

    path: Path = Field(description="JSON lines file, folder of parquet configs, or hub name MLLMMU/MLLMU-Bench")
    part: Literal["people", "celebrities"] = Field(default="people", description="celebrities: the config Retain_Set")
    train_path: Path | None = Field(
        default=None, description="training text from here, not ft_Data: MLLMMU/baseline_train_split or a copy of it"
    )

    def read(self) -> PublishedData:
        """Read the tables, or the training text if ``path`` is a file."""
        if self._text_only:
            return PublishedData(people=[self._profile(person, *read) for person, read in self._texts.items()])
        if self.path.name == CELEBRITIES and self.part == "celebrities" and self.path.is_dir():
            return BenchmarkReader(Store(self.path.parent, self.revision)).celebrities()
        # the baseline training splits are a model repository of the hub, so they are fetched as files
        text = self.train_path and downloaded(self.train_path, patterns=["*.parquet"], kind="model")
        reader = BenchmarkReader(Store(self.path, self.revision), Store(text) if text else None)
        return reader.celebrities() if self.part == "celebrities" else reader.people()

    def report(self) -> Recovery:
        """Count what was recovered from a training text per attribute, and list every pair that gave no value."""
        return summarise([person for _, person in self._texts.values()])

    def account(self) -> dict[str, Any]:
        """What was used of every config; of a training text, how many people state all ten core attributes."""
        if not self._text_only:
            return super().account()
        report = self.report()
        silent = report.unavailable()
        summary = (
            f"{report.num_people} people, {report.num_qa} training pairs, {report.num_core_complete} people with all "
            f"ten core attributes; {len(silent)} say themselves that one is not available"
        )
        return {"summary": summary, "people": report.people, "unavailable": silent, "pairs_without": report.reasons()}

    @property
    def _text_only(self) -> bool:
        return not self.path.is_dir() and not is_hub_name(self.path)

    def _profile(self, person: str, number: int, read: RecoveredPerson) -> Profile:
        attributes, training_qa, _ = read
        if "name" not in attributes:
            raise DataError(
                f"{self.path}:{number}: no name could be read for ID '{person}'. Expected a pair such as "
                "'What is the name of this person?' / 'This person's name is Ada Bell.'"
            )
        return Profile(id=person, kind="fictitious", attributes=attributes, training_qa=training_qa)

    @cached_property
    def _texts(self) -> dict[str, tuple[int, RecoveredPerson]]:
        """The people of a training text with the numbers of their lines."""
        if self.path.suffix == ".parquet" and self.path.is_file():
            raise DataError(_one_table(self.path))
        found: dict[str, tuple[int, RecoveredPerson]] = {}
        for number, text in enumerate(read_text(self.path, expected=_EXPECTED).split("\n"), start=1):
            if not text.strip() or len(found) == self.num_people:
                continue
            line = _parse(text, where=f"{self.path}:{number}")
            if line.ID in found:
                raise DataError(
                    f"{self.path}:{number}: ID '{line.ID}' was already given on line {found[line.ID][0]}. "
                    "Expected one line per person; remove or rename one of them."
                )
            found[line.ID] = number, recover_person(line.ID, [(pair.Question, pair.Answer) for pair in line.metadata])
        return found


def _one_table(path: Path) -> str:
    """Why a single parquet file is not enough, and what to name instead."""
    columns = Table(str(path), [path]).columns
    if "metadata" not in columns:
        return (
            f"{path}: got evaluation data (columns {', '.join(columns)}; no 'metadata'), expected training text. "
            "Name the folder that holds all configs, ft_Data among them."
        )
    return f"{path}: one table of training text has no questions. Name the folder that holds all configs."


def _parse(text: str, *, where: str) -> _Line:
    try:
        return _Line.model_validate_json(text)
    except ValidationError as error:
        if _EVALUATION_KEY.search(text):
            raise DataError(
                f"{where}: got evaluation data (Classification_Task, Generation_Task or Mask_Task), expected training "
                f"text. Name the file made from the config ft_Data, with lines {_SHAPE}."
            ) from None
        raise DataError(f"{where}: {misfit(error, 'line')}. Expected {_SHAPE}.") from None


PLUGIN = MllmuBench
