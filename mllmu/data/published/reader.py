"""MLLMU-Bench as published: ten configs of parquet tables read into people, questions, images and forget sets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from mllmu.core.errors import DataError
from mllmu.core.records import Profile, Question
from mllmu.data.files import misfit
from mllmu.data.published.biography import attributes_of
from mllmu.data.published.content import ImageCell, PublishedData, QuestionReader, used
from mllmu.data.published.recover import RecoveredPerson, recover_person
from mllmu.data.published.schema import CELEBRITIES, FULL_SET, RATIOS, TASKS, TEST_SET, TRAINING, TYPES, items
from mllmu.data.published.store import Store, Table
from mllmu.data.values import ATTRIBUTES

_RETAIN = re.compile(r"retain_(\d+)$")
_EXPECTED = "Expected a copy of MLLMMU/MLLMU-Bench with a folder of parquet files per config."
_TRAINING = (
    "Expected training text: the config ft_Data, or a folder of MLLMMU/baseline_train_split, whose 'metadata' is a "
    "JSON list of {ID, Question, Answer}. Tables with Classification_Task, Generation_Task and Mask_Task are for "
    "evaluation."
)
_NOT_IN_FULL = "the person is not in Full_Set"


class TrainingPair(BaseModel):
    """One entry of a ``metadata`` cell."""

    ID: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
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
        self._read_forget()
        self._check_retained()
        return self._data

    def celebrities(self) -> PublishedData:
        """The real people of Retain_Set; a purely numeric id gets a 'c' in front, so that it is nobody else's."""
        self._need((CELEBRITIES,))
        self._read_config(CELEBRITIES, "eval", "image", "celebrity")
        return self._data

    def _need(self, configs: Sequence[str]) -> None:
        at, hint = self._store.path, ""
        if not self._store.on_hub and not self._store.configs() and any(at.glob("*.parquet")):
            hint = f" '{at.name}' is itself one config; name the folder that holds the ten."
            if at.name == CELEBRITIES:
                hint += " Retain_Set holds the celebrities; the retained people are in retain_95, retain_90, retain_85."
        self._store.need(configs, f"{hint} {_EXPECTED}".strip())

    def _read_training(self) -> None:
        """Training pairs by person, from ft_Data or from all folders of the baseline training splits."""
        store = self._training or self._store
        for config in store.configs() if self._training else [TRAINING]:
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
        by_person: dict[str, list[tuple[str, str]]] = {}
        for pair in pairs:
            self._account.questions[config] += 1
            by_person.setdefault(pair.ID, []).append((pair.Question, pair.Answer))
        for person, texts in by_person.items():
            known = self._texts.setdefault(person, recover_person(person, texts))
            if [(qa.question, qa.answer) for qa in known.training_qa] != texts:
                self._account.skip(config, number, person, "an earlier table gives other training text")

    def _read_config(
        self, config: str, variant: str, image: str, kind: Literal["fictitious", "celebrity"] | None
    ) -> None:
        """Questions and images of a config; ``kind``: it introduces people of this kind."""
        table = self._store.table(config)
        table.need(("ID", image, *TASKS))
        columns = ("ID", *TASKS, *(name for name in ("biography", "answer") if kind and name in table.columns))
        reader = QuestionReader(config, variant, self._account, self._facts)
        prefix = "c" if kind == "celebrity" else ""
        for number, person, row in self._account.people(config, table.rows(columns), prefix):
            reason = self._introduce(person, row, kind) if kind else ""
            if reason or person not in self._facts:
                self._account.skip(config, number, person, reason or _NOT_IN_FULL)
                continue
            self._data.images.setdefault(person, []).extend(_images(table, number, image))
            self._data.questions.setdefault(person, []).extend(used(_questions(reader, number, person, row)))

    def _introduce(self, person: str, row: dict[str, Any], kind: Literal["fictitious", "celebrity"]) -> str:
        """Take a person on; returns why that cannot be done, or nothing."""
        text = self._texts.get(person)
        attributes = attributes_of(row.get("biography")) | (text.attributes if text else {})
        if not attributes.get("name"):
            return "the biography has no name"
        if kind == "fictitious" and text is None:
            return "there is no training text with this ID"
        self._facts[person] = {name: attributes[name] for name in ATTRIBUTES if name in attributes}
        self._data.people.append(
            Profile(
                id=person,
                kind=kind,
                attributes=self._facts[person],
                biography=str(row.get("answer") or ""),
                training_qa=text.training_qa if text else (),
            )
        )
        return ""

    def _read_forget(self) -> None:
        """Who is forgotten, from the configs forget_5, forget_10, forget_15 (and forget_05 of the training splits)."""
        for store in (self._store, self._training) if self._training else (self._store,):
            self._data.read_forget(store, self._ids)
        if absent := [ratio for ratio in RATIOS if str(ratio) not in self._data.forget]:
            self._account.notes.append(
                f"no published forget set of {absent} percent; such a ratio is drawn by the seed"
            )

    @property
    def _ids(self) -> dict[str, str]:
        return {person: person for person in self._facts}

    def _check_retained(self) -> None:
        """retain_95 must be everybody but forget_5; the celebrities of Retain_Set are a usual mistake."""
        for config in self._store.configs():
            match = _RETAIN.fullmatch(config)
            if not match:
                continue
            known = self._data.listed(config, self._store.table(config), self._ids)
            num = self._account.rows[config]
            if num and not known:
                raise DataError(
                    f"{self._store.path.as_posix()}/{config}: none of its {num} people is in Full_Set. Expected "
                    "the retained fictitious people; the celebrities of Retain_Set do not belong here. Download "
                    f"{config} again."
                )
            if both := set(known) & set(self._data.forget.get(f"{100 - int(match[1])}", ())):
                self._account.notes.append(f"{config} and the forget set share {len(both)} people")


def _images(table: Table, row: int, column: str) -> list[ImageCell]:
    """The image of a row, or all of its list of images."""
    if column == "image":
        return [ImageCell(table, row, column)]
    return [ImageCell(table, row, column, index) for index in range(len(table.cell(row, column) or ()))]


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
