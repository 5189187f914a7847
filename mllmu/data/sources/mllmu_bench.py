"""MLLMU-Bench as published: the whole data set, or its training text alone.

A text file holds one person a line, ``{"ID": "001", "metadata": [{"Question": ..., "Answer": ...}, ...]}``. Attributes
are recovered from the text by rules, see :mod:`mllmu.data.published.recover`; the text itself is kept word for word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mllmu.core.errors import DataError
from mllmu.core.records import Profile
from mllmu.data.published.recover import Person, Recovery, recover_person, summarise
from mllmu.data.published.store import ParquetTable, Store, is_hub_name
from mllmu.data.sources._mllmu_tables import CELEBRITIES, Reader, training_store
from mllmu.data.sources._published import Found, Published

_SHAPE = '{"ID": "001", "metadata": [{"Question": "...", "Answer": "..."}, ...]}'
_EVALUATION_KEY = re.compile(r'"(?:Classification_Task|Generation_Task|Mask_Task)"\s*:')

_Text = Annotated[str, Field(min_length=1, max_length=2_000)]


class _Pair(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    Question: _Text
    Answer: _Text


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    ID: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    metadata: list[_Pair] = Field(min_length=1)


class _Read(NamedTuple):
    number: int
    id: str
    person: Person


class MllmuBench(Published):
    """MLLMU-Bench as published: from the hub, a local copy of its parquet tables, or its training text alone.

    With tables, everything is used as it is: training text, questions, portraits, transformed portraits and forget
    sets; celebrities are ``part: celebrities`` (the config Retain_Set). Flaws of the text and rows that cannot be used
    are counted and listed in ``data/source.json``. With a JSON lines file (one person a line, ``{"ID", "metadata"}``)
    there is the training text only, and questions and portraits are made.

    Attributes are recovered from the training text by rules, and from the biography where the text says nothing; what
    cannot be read is missing and listed by :meth:`report`, never guessed.

    Raises:
        DataError: the file, folder or repository is missing or damaged; a config, column or shard is missing; tables
            for evaluation are given where training text is needed; the celebrities stand in for the retained people;
            an image cannot be decoded; nobody, or fewer than ``num_people``, can be used.

    Source: https://arxiv.org/abs/2410.22108 (the Hub data set MLLMMU/MLLMU-Bench).
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"
    filled: ClassVar[tuple[str, ...]] = ("train",)

    path: Path = Field(description="JSON lines file, folder of parquet configs, or hub name MLLMMU/MLLMU-Bench")
    part: Literal["people", "celebrities"] = Field(default="people", description="celebrities: the config Retain_Set")
    train_path: Path | None = Field(
        default=None, description="training text from here, not ft_Data: MLLMMU/baseline_train_split or a copy of it"
    )

    def read(self) -> Found:
        """Read the tables, or the training text if ``path`` is a file."""
        if self._text_only():
            return Found(people=[self._profile(line) for line in self._people()])
        reader = self._reader()
        return reader.celebrities() if self.part == "celebrities" else reader.people()

    def report(self) -> Recovery:
        """Count what was recovered per attribute, and list every pair that gave no value and why."""
        if self._text_only():
            return summarise([line.person for line in self._people()])
        reader = self._reader()
        reader.people()
        return reader.report()

    def account(self) -> dict[str, Any]:
        """What was used of every config; of a training text, how many people state all ten core attributes."""
        if not self._text_only():
            return super().account()
        report = self.report()
        silent = report.unavailable()
        summary = (
            f"{report.num_people} people, {report.num_qa} training pairs, {report.num_core_complete} people with all "
            f"ten core attributes; {len(silent)} say themselves that one is not available"
        )
        return {"summary": summary, "people": report.people, "unavailable": silent, "pairs_without": report.reasons()}

    def _text_only(self) -> bool:
        return not self.path.is_dir() and not is_hub_name(self.path)

    def _reader(self) -> Reader:
        if self.path.name == CELEBRITIES and self.part == "celebrities" and self.path.is_dir():
            return Reader(Store(self.path.parent, self.revision))
        training = training_store(self.train_path) if self.train_path else None
        return Reader(Store(self.path, self.revision), training)

    def _profile(self, line: _Read) -> Profile:
        attributes, training_qa, _ = line.person
        if "name" not in attributes:
            raise DataError(
                f"{self.path}:{line.number}: no name could be read for ID '{line.id}'. Expected a pair such as "
                "'What is the name of this person?' / 'This person's name is Ada Bell.'"
            )
        return Profile(id=line.id, kind="fictitious", attributes=attributes, training_qa=training_qa)

    def _people(self) -> list[_Read]:
        seen: dict[str, int] = {}
        people = []
        for number, line in self._lines():
            if line.ID in seen:
                raise DataError(
                    f"{self.path}:{number}: ID '{line.ID}' was already given on line {seen[line.ID]}. "
                    "Expected one line a person; remove or rename one of them."
                )
            seen[line.ID] = number
            pairs = [(pair.Question, pair.Answer) for pair in line.metadata]
            people.append(_Read(number, line.ID, recover_person(line.ID, pairs)))
            if len(people) == self.num_people:
                break
        if len(people) < (self.num_people or 1):
            raise DataError(
                f"{self.path}: got {len(people)} people, expected at least {self.num_people or 1}. "
                "Lower num_people or name a file with more lines."
            )
        return people

    def _lines(self) -> Iterator[tuple[int, _Line]]:
        if self.path.suffix == ".parquet" and self.path.is_file():
            raise DataError(_one_table(self.path))
        for number, text in enumerate(_read_text(self.path).split("\n"), start=1):
            if text.strip():
                yield number, _parse(text, where=f"{self.path}:{number}")


def _one_table(path: Path) -> str:
    """Why a single parquet file is not enough, and what to name instead."""
    columns = ParquetTable(str(path), [path]).columns
    if "metadata" not in columns:
        return (
            f"{path}: got evaluation data (columns {', '.join(columns)}; no 'metadata'), expected training text. "
            "Name the folder that holds all configs, ft_Data among them."
        )
    return f"{path}: one table of training text has no questions. Name the folder that holds all configs."


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Expected the training text as JSON lines, {_SHAPE} a line.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Expected a JSON lines file.") from None


def _parse(text: str, *, where: str) -> _Line:
    try:
        return _Line.model_validate_json(text)
    except ValidationError as error:
        if _EVALUATION_KEY.search(text):
            raise DataError(
                f"{where}: got evaluation data (Classification_Task, Generation_Task or Mask_Task), expected training "
                f"text. Name the file made from the config ft_Data, with lines {_SHAPE}."
            ) from None
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"])) or "line"
        got = repr(fault["input"])
        raise DataError(f"{where}: {place}: {fault['msg']}, got {got[:80]}. Expected {_SHAPE}.") from None


PLUGIN = MllmuBench
