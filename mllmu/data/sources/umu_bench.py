"""UMU-Bench: the people of MLLMU-Bench asked the same facts in both modalities, in cells of JSON text."""

import ast
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from pydantic import Field

from mllmu.core.records import Modality, PersonKind, Profile, Question
from mllmu.data.published.biography import attributes_of
from mllmu.data.published.content import PublishedData, QuestionReader, used
from mllmu.data.published.recover import recover_person
from mllmu.data.published.store import Store, Table
from mllmu.data.sources import Published
from mllmu.data.values import ATTRIBUTES

FULL = "Full_Set"
CELEBRITIES = ("real_person", "Retain_Set")
_TASKS = (("classification", "Classify"), ("generation", "Generation"), ("cloze", "Cloze"))
_TRAINING: tuple[tuple[Modality, str], ...] = (("image_text", "MM_QA"), ("text", "UM_QA"))
_GROUPS: tuple[tuple[Modality, tuple[str, ...]], ...] = (
    ("image_text", ("muitimodal", "multimodal")),  # the first is the published spelling
    ("text", ("unimodal",)),
)
_COLUMNS = ("ID", *(column for _, column in _TASKS))
MAX_CELL = 200_000


class UmuBench(Published):
    """UMU-Bench as published: unimodal and multimodal questions about the same facts of the same people.

    Training text is ``MM_QA`` with the portrait and ``UM_QA`` without; a fact that is asked in one modality is asked
    in the other too. There are no transformed portraits and no Test questions. Cells are JSON text or Python literals;
    a cell that is neither is listed with its row, and so is every question that cannot be used.

    Source: https://huggingface.co/datasets/chengyewang/UMU-bench (schema: https://github.com/QDRhhhh/UMU-bench).
    """

    source = "https://huggingface.co/datasets/chengyewang/UMU-bench"

    part: Literal["people", "celebrities"] = Field(default="people", description="celebrities: the real people")

    def read(self) -> PublishedData:
        store, data = Store(self.path, self.revision), PublishedData()
        configs = store.configs
        wanted = (FULL,) if self.part == "people" else CELEBRITIES
        config = next((name for name in wanted if name in configs), wanted[-1])
        store.need([config], "Expected a copy of chengyewang/UMU-bench.")
        self._read(store.table(config), config, data)
        if self.part == "people":
            data.read_forget(store, {person: person for person in data.images})
        return data

    def _read(self, table: Table, config: str, data: PublishedData) -> None:
        trained = tuple(column for _, column in _TRAINING) if self.part == "people" else ()
        table.need((*_COLUMNS, "image", *trained), "Expected the schema of chengyewang/UMU-bench.")
        about = tuple(column for column in ("Biography", "biography") if column in table.columns)
        training, evaluation = (QuestionReader(config, variant, data.account) for variant in ("train", "eval"))
        rows = table.rows((*_COLUMNS, *trained, *about))
        for number, person, row in data.account.people(config, rows, "c" if self.part == "celebrities" else ""):
            pairs = used(_pairs(row, training, number, person))
            profile = self._profile(person, row.get(about[0]) if about else None, pairs)
            if profile is None:
                data.account.skip(config, number, person, "neither the biography nor the text says a name")
                continue
            data.people.append(profile)
            data.images[person] = [partial(table.image, number, "image")]
            data.questions[person] = [*pairs, *used(_asked(row, evaluation, number, person))]

    def _profile(self, person: str, biography: Any, pairs: list[Question]) -> Profile | None:
        read = recover_person(person, [(q.text, q.answer) for q in pairs if q.modality == "image_text"])
        known = attributes_of(_value(biography)) | read.attributes
        if "name" not in known:
            return None
        kind: PersonKind = "fictitious" if self.part == "people" else "celebrity"
        facts = {name: known[name] for name in ATTRIBUTES if name in known}
        return Profile(id=person, kind=kind, attributes=facts, also=read.also)


def _value(cell: Any) -> Any:
    """The value of a cell: JSON, or a Python literal as some rows have it; None if it is neither."""
    if not isinstance(cell, str):
        return cell
    for read in (json.loads, ast.literal_eval) if len(cell) <= MAX_CELL else (json.loads,):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return read(cell)
    return None


def _pairs(row: dict[str, Any], reader: QuestionReader, number: int, person: str) -> Iterator[Question | None]:
    """Training questions from cells ``{"question": {"1": ...}, "answer": {"1": ...}}``."""
    for modality, column in _TRAINING:
        if column not in row:
            continue
        cell = _value(row[column])
        questions, answers = (cell.get("question"), cell.get("answer")) if isinstance(cell, dict) else (None, None)
        if not isinstance(questions, dict) or not isinstance(answers, dict):
            reason = "the cell is not {question: {}, answer: {}}"
            reader.account.skip(reader.config, number, person, reason, column)
            continue
        for key, text in questions.items():
            yield reader.read(number, person, "generation", modality, text, answers.get(key))


def _asked(row: dict[str, Any], reader: QuestionReader, number: int, person: str) -> Iterator[Question | None]:
    """Evaluation questions from cells ``{"unimodal": {"1": {"question", "options", "answer"}}, ...}``."""
    for task, column in _TASKS:
        cell = _value(row[column])
        for modality, names in _GROUPS:
            group = next((cell[name] for name in names if isinstance(cell, dict) and name in cell), None)
            if not isinstance(group, dict):
                reason = "there are no such questions"
                reader.account.skip(reader.config, number, person, reason, f"{column}.{modality}")
                continue
            for item in group.values():
                item = item if isinstance(item, dict) else {}
                text, answer = item.get("question"), item.get("answer")
                if task == "cloze" and isinstance(answer, str):
                    answer = answer.removesuffix(".")
                yield reader.read(number, person, task, modality, text, answer, options=item.get("options"))
