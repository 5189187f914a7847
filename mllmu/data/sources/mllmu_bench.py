"""The published training text of MLLMU-Bench as a profile source.

The file holds one person a line, ``{"ID": "001", "metadata": [{"Question": ..., "Answer": ...}, ...]}``. Attributes
are recovered from the text by rules, see :mod:`mllmu.data.recover`; the text itself is kept word for word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mllmu.data.recover import Person, Recovery, recover_person, summarise
from mllmu.errors import DataError
from mllmu.plugins import Plugin
from mllmu.records import Profile

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


class MllmuBench(Plugin):
    """People of the published MLLMU-Bench training text (JSON lines), attributes recovered by rules.

    ``profiles(seed)`` returns one fictitious Profile a line, in file order, with the published text in
    ``training_qa``; the seed changes nothing, since nothing is drawn. What the rules could not read is missing from
    ``attributes`` and listed by :meth:`report`: an attribute is never guessed.

    Raises:
        DataError: the file is missing or not UTF-8; a line is not JSON, lacks a key, has a wrong type or an
            unknown key; an ID appears twice; a person has no readable name; the file has fewer than ``num_people``.

    Source: https://arxiv.org/abs/2410.22108 (the ``ft_Data`` part of the Hub data set MLLMMU/MLLMU-Bench).
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"

    path: Path = Field(description="JSON lines file, one person a line")
    num_people: int | None = Field(default=None, gt=0, description="only the first n people of the file")

    def profiles(self, seed: int) -> list[Profile]:
        """Return the people in file order; ``seed`` is part of the source interface and has no effect here."""
        del seed
        return [self._profile(line) for line in self._people()]

    def report(self) -> Recovery:
        """Count what was recovered per attribute, and list every pair that gave no value and why."""
        return summarise([line.person for line in self._people()])

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
        for number, text in enumerate(_read_text(self.path).split("\n"), start=1):
            if text.strip():
                yield number, _parse(text, where=f"{self.path}:{number}")


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
