"""MLLMU-Bench as published: the whole data set, or its training text alone.

A text file holds one person per line, ``{"ID": "001", "metadata": [{"Question": ..., "Answer": ...}, ...]}``.
Attributes are recovered from the text by rules, see :mod:`mllmu.data.published.recover`; the text itself is kept word
for word.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal

from PIL.Image import Image
from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from mllmu.core.errors import DataError
from mllmu.core.names import is_hub_name
from mllmu.core.records import ID_PATTERN, PersonKind, Profile, Question
from mllmu.data.files import misfit, read_text
from mllmu.data.published.biography import attributes_of
from mllmu.data.published.content import PublishedData, QuestionReader, used
from mllmu.data.published.ids import as_id
from mllmu.data.published.recover import RecoveredPerson, Recovery, recover_person, summarise
from mllmu.data.published.schema import CELEBRITIES, FULL_SET, RATIOS, TASKS, TEST_SET, TRAINING, TYPES, items
from mllmu.data.published.store import Store, Table, downloaded
from mllmu.data.sources import Published
from mllmu.data.values import ATTRIBUTES

_RETAIN = re.compile(r"retain_(\d+)")
_EXPECTED = "Expected a copy of MLLMMU/MLLMU-Bench with a folder of parquet files per config."
_TRAINING = (
    "Expected training text: the config ft_Data, or a folder of MLLMMU/baseline_train_split, whose 'metadata' is a "
    "JSON list of {ID, Question, Answer}. Tables with Classification_Task, Generation_Task and Mask_Task are for "
    "evaluation."
)


_Id = Annotated[str, BeforeValidator(lambda value: as_id(value) or value), Field(pattern=ID_PATTERN)]


class TrainingPair(BaseModel):
    """One entry of a ``metadata`` cell."""

    ID: _Id
    Question: str
    Answer: str


_PAIRS = TypeAdapter(list[TrainingPair])


class BenchmarkReader:
    """Reads one data set of this layout.

    Args:
        store: the data set.
        training: the repository with the baseline training splits, if the training text comes from there.
    """

    def __init__(self, store: Store, training: Store | None = None) -> None:
        self._store, self._training = store, training
        self._data = PublishedData()
        self._account = self._data.account
        self._texts: dict[str, RecoveredPerson] = {}
        self._facts: dict[str, dict[str, str]] = {}

    def people(self) -> PublishedData:
        """The fictitious people with training text, eval and test questions, portraits and forget sets."""
        self._need((FULL_SET, TEST_SET) if self._training else (FULL_SET, TRAINING, TEST_SET))
        self._read_training()
        self._read_config(FULL_SET, "eval", "image", "fictitious")
        self._read_config(TEST_SET, "test", "images", None)
        asked = {person for person, qs in self._data.questions.items() if any(q.variant == "test" for q in qs)}
        if lost := [p.id for p in self._data.people if p.id not in asked]:
            self._account.notes.append(f"{len(lost)} people have no test questions, first {lost[0]}")
        ids = {person: person for person in self._facts}
        # forget_5, forget_10, forget_15 (and forget_05 of the training splits)
        for store in (self._store, self._training) if self._training else (self._store,):
            self._data.read_forget(store, ids)
        if absent := [ratio for ratio in RATIOS if str(ratio) not in self._data.forget]:
            self._account.notes.append(
                f"no published forget set of {absent} percent; such a ratio is drawn by the seed"
            )
        self._check_retained(ids)
        return self._data

    def celebrities(self) -> PublishedData:
        """The real people of Retain_Set; a purely numeric id gets a 'c' in front, so that it is unique."""
        self._need((CELEBRITIES,))
        self._read_config(CELEBRITIES, "eval", "image", "celebrity")
        return self._data

    def _need(self, configs: Sequence[str]) -> None:
        at, hint = self._store.path, ""
        if not self._store.on_hub and not self._store.configs and any(at.glob("*.parquet")):
            hint = f" '{at.name}' is itself one config; name the folder that holds the ten."
            if at.name == CELEBRITIES:
                hint += " Retain_Set holds the celebrities; the retained people are in retain_95, retain_90, retain_85."
        self._store.need(configs, f"{hint} {_EXPECTED}".strip())

    def _read_training(self) -> None:
        """Training pairs by person, from ft_Data or from all folders of the baseline training splits."""
        store = self._training or self._store
        for config in store.configs if self._training else [TRAINING]:
            table = store.table(config)
            table.need(("metadata",), _TRAINING)
            for number, row in enumerate(table.rows(("metadata",))):
                self._account.rows[config] += 1
                self._read_pairs(config, table, number, row["metadata"])

    def _read_pairs(self, config: str, table: Table, number: int, cell: Any) -> None:
        try:
            pairs = _PAIRS.validate_json(cell) if isinstance(cell, str) else _PAIRS.validate_python(cell or [])
        except ValidationError as error:
            reason = f"{table.where(number)}: metadata: {misfit(error, 'list')}. Expected the published schema."
            self._account.skip(config, number, "", reason)
            return
        if not pairs:
            self._account.skip(config, number, "", "'metadata' holds no training pair")
        self._account.questions[config] += len(pairs)
        by_person: dict[str, list[tuple[str, str]]] = {}
        for pair in pairs:
            by_person.setdefault(pair.ID, []).append((pair.Question, pair.Answer))
        for person, texts in by_person.items():
            read = recover_person(person, texts)
            known = self._texts.setdefault(person, read)
            for gap in (gap for gap in read.gaps if gap.reason == "blank"):
                self._account.skip(config, number, person, "question or answer is blank", f"pair {gap.question!r}")
            if known.training_qa != read.training_qa:
                self._account.skip(config, number, person, "an earlier table gives other training text")

    def _read_config(self, config: str, variant: str, image: str, kind: PersonKind | None) -> None:
        """Questions and images of a config; ``kind``: it introduces people of this kind."""
        table = self._store.table(config)
        table.need(("ID", image, *TASKS))
        columns = ("ID", *TASKS, *(name for name in ("biography", "answer") if kind and name in table.columns))
        reader = QuestionReader(config, variant, self._account, self._facts)
        prefix = "c" if kind == "celebrity" else ""
        known = () if kind == "celebrity" else self._texts
        for number, person, row in self._account.people(config, table.rows(columns), prefix, known):
            reason = self._introduce(person, row, kind) if kind else ""
            if reason or person not in self._facts:
                self._account.skip(config, number, person, reason or "the person is not in Full_Set")
                continue
            self._data.images.setdefault(person, []).extend(_images(table, number, image))
            self._data.questions.setdefault(person, []).extend(used(_questions(reader, number, person, row)))

    def _introduce(self, person: str, row: dict[str, Any], kind: PersonKind) -> str:
        """Take a person on; returns why that cannot be done, or nothing."""
        text = self._texts.get(person)
        attributes = attributes_of(row.get("biography")) | (text.attributes if text else {})
        if not attributes.get("name"):
            return "the biography has no name"
        if kind == "fictitious" and text is None:
            return "there is no training text with this ID"
        facts = {name: attributes[name] for name in ATTRIBUTES if name in attributes}
        said, also, pairs = str(row.get("answer") or ""), text.also if text else {}, text.training_qa if text else ()
        self._facts[person] = facts
        profile = Profile(id=person, kind=kind, attributes=facts, also=also, biography=said, training_qa=pairs)
        self._data.people.append(profile)
        return ""

    def _check_retained(self, ids: Mapping[str, str]) -> None:
        """retain_95 must hold all people but forget_5; the celebrities of Retain_Set are a usual mistake."""
        for match in filter(None, map(_RETAIN.fullmatch, self._store.configs)):
            config = match[0]
            known = self._data.listed(config, self._store.table(config), ids)
            num = self._account.rows[config]
            if num and not known:
                raise DataError(
                    f"{self._store.path.as_posix()}/{config}: none of its {num} people is in Full_Set. Expected "
                    "the retained fictitious people; the celebrities of Retain_Set do not belong here. Download "
                    f"{config} again."
                )
            if both := set(known) & set(self._data.forget.get(f"{100 - int(match[1])}", ())):
                self._account.notes.append(f"{config} and the forget set share {len(both)} people")


def _images(table: Table, row: int, column: str) -> list[Callable[[], Image]]:
    """The image of a row, or all of its list of images."""
    if column == "image":
        return [partial(table.image, row, column)]
    return [partial(table.image, row, column, index) for index in range(len(table.cell(row, column) or ()))]


def _questions(reader: QuestionReader, number: int, person: str, row: dict[str, Any]) -> Iterator[Question | None]:
    """The questions of one row."""
    for item in items(row):
        if item.modality:
            said = item.task, item.modality, item.text, item.answer
            yield reader.read(number, person, *said, options=item.options)
        else:
            reader.account.questions[reader.config] += 1
            reason = f"the Type {item.type!r} is neither of {list(TYPES.values())}"
            reader.account.skip(reader.config, number, person, reason, f"{item.column}[{item.position}]")


_SHAPE = '{"ID": "001", "metadata": [{"Question": "...", "Answer": "..."}, ...]}'
_TEXT_EXPECTED = f"Expected the training text as JSON lines, {_SHAPE} per line."
_EVALUATION_KEY = re.compile(r'"(?:Classification_Task|Generation_Task|Mask_Task)"\s*:')

_Text = Annotated[str, Field(max_length=2_000)]


class _Pair(BaseModel, extra="forbid", strict=True):
    Question: _Text
    Answer: _Text


class _Line(BaseModel, extra="forbid", strict=True):
    ID: _Id
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

    source = "https://arxiv.org/abs/2410.22108"
    filled = ("train",)

    path: Path = Field(description="JSON lines file, folder of parquet configs, or hub name MLLMMU/MLLMU-Bench")
    part: Literal["people", "celebrities"] = Field(default="people", description="celebrities: the config Retain_Set")
    train_path: Path | None = Field(default=None)
    """training text from here, not ft_Data: MLLMMU/baseline_train_split or a copy of it"""

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

    def expected_people(self) -> int | None:
        """The setting ``num_people``, or the lines of a training text."""
        if self.num_people is None and self._text_only and self.path.is_file():
            return sum(1 for line in self.path.read_bytes().split(b"\n") if line.strip())
        return self.num_people

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
        blank = [{"id": gap.profile_id, "question": gap.question} for gap in report.gaps if gap.reason == "blank"]
        summary += f"; {len(blank)} blank pairs are left out" if blank else ""
        told = {"summary": summary, "people": report.people, "unavailable": silent, "pairs_without": report.reasons()}
        return {**told, "blank": blank} if blank else told

    @property
    def _text_only(self) -> bool:
        return not self.path.is_dir() and not is_hub_name(self.path)

    def _profile(self, person: str, number: int, read: RecoveredPerson) -> Profile:
        if "name" not in read.attributes:
            raise DataError(
                f"{self.path}:{number}: no name could be read for ID '{person}'. Expected a pair such as "
                "'What is the name of this person?' / 'This person's name is Ada Bell.'"
            )
        told, pairs = read.attributes, read.training_qa
        return Profile(id=person, kind="fictitious", attributes=told, also=read.also, training_qa=pairs)

    @cached_property
    def _texts(self) -> dict[str, tuple[int, RecoveredPerson]]:
        """The people of a training text with the numbers of their lines."""
        if self.path.suffix == ".parquet" and self.path.is_file():
            raise DataError(_one_table(self.path))
        found: dict[str, tuple[int, RecoveredPerson]] = {}
        for number, text in enumerate(read_text(self.path, expected=_TEXT_EXPECTED).split("\n"), start=1):
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
