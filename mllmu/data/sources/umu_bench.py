"""UMU-Bench: the people of MLLMU-Bench asked the same facts in both modalities, in cells of JSON text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Modality, Profile, Question, TaskName
from mllmu.data.published.recover import CORE, EXTRA, recover_person
from mllmu.data.published.store import Store, Table
from mllmu.data.sources._mllmu_tables import attributes_of
from mllmu.data.sources._published import Asker, Found, Published, Shown, usable_id

FULL = "Full_Set"
CELEBRITIES = ("real_person", "Retain_Set")
_TASKS: tuple[tuple[TaskName, str], ...] = (
    ("classification", "Classify"),
    ("generation", "Generation"),
    ("cloze", "Cloze"),
)
_TAUGHT: tuple[tuple[Modality, str], ...] = (("image_text", "MM_QA"), ("text", "UM_QA"))
_GROUPS: tuple[tuple[Modality, tuple[str, ...]], ...] = (
    ("image_text", ("muitimodal", "multimodal")),  # the first is the published spelling
    ("text", ("unimodal",)),
)
_COLUMNS = ("ID", "image", *(column for _, column in _TASKS))
_FORGET = re.compile(r"forget_0*(\d+)$")
MAX_CELL = 200_000


class UmuBench(Published):
    """UMU-Bench as published: unimodal and multimodal questions about the same facts of the same people.

    Training text is ``MM_QA`` with the portrait and ``UM_QA`` without; a fact that is asked in one modality is asked
    in the other too. There are no transformed portraits and no Test questions. Cells are JSON text or Python literals;
    a cell that is neither is listed with its row, and so is every question that cannot be used.

    Source: https://huggingface.co/datasets/chengyewang/UMU-bench (schema: https://github.com/QDRhhhh/UMU-bench).
    """

    source: ClassVar[str] = "https://huggingface.co/datasets/chengyewang/UMU-bench"

    part: Literal["people", "celebrities"] = Field(default="people", description="celebrities: the real people")

    def read(self) -> Found:
        store = Store(self.path, self.revision)
        configs = store.configs()
        wanted = [name for name in ((FULL,) if self.part == "people" else CELEBRITIES) if name in configs]
        if not wanted:
            raise DataError(
                f"{self.path.as_posix()}: no config {FULL if self.part == 'people' else ' or '.join(CELEBRITIES)}; it "
                f"has {', '.join(configs) or 'none'}. Expected a copy of chengyewang/UMU-bench."
            )
        found = Found()
        self._read(store.table(wanted[0]), wanted[0], found)
        if self.part == "people":
            known = {p.id for p in found.people}
            for config in configs:
                if match := _FORGET.fullmatch(config):
                    ids = [usable_id(row["ID"]) for row in store.table(config).rows(("ID",))]
                    found.tally.rows[config] = len(ids)
                    found.forget[match[1]] = [i for i in ids if i in known]  # type: ignore[misc]
        return found

    def _read(self, table: Table, config: str, found: Found) -> None:
        taught = tuple(column for _, column in _TAUGHT) if self.part == "people" else ()
        table.need((*_COLUMNS, *taught), "Expected the schema of chengyewang/UMU-bench.")
        about = tuple(column for column in ("Biography", "biography") if column in table.columns)
        columns = (*(c for c in _COLUMNS if c != "image"), *taught, *about)
        asker = Asker(config, "eval", found.tally)
        teacher = Asker(config, "train", found.tally)
        for number, row in enumerate(table.rows(columns)):
            found.tally.rows[config] += 1
            person = usable_id(row["ID"])
            if person is None or person in found.images:
                reason = "the ID is not usable" if person is None else "the ID was already given"
                found.tally.skip(config, number, str(row["ID"])[:80], "row", reason)
                continue
            person = f"c{person}" if self.part == "celebrities" and person.isdigit() else person
            pairs = [pair for pair in _pairs(row, teacher, number, person) if pair]
            profile = self._profile(person, row.get(about[0]) if about else None, pairs)
            if profile is None:
                found.tally.skip(config, number, person, "row", "neither the biography nor the text says a name")
                continue
            found.people.append(profile)
            found.images[person] = [Shown(table, number, "image")]
            found.questions[person] = [*pairs, *_asked(row, asker, number, person)]

    def _profile(self, person: str, biography: Any, pairs: list[Question]) -> Profile | None:
        read = recover_person(person, [(q.text, q.answer) for q in pairs if q.modality == "image_text"])
        known = attributes_of(_value(biography)) | read.attributes
        if "name" not in known:
            return None
        return Profile(
            id=person,
            kind="fictitious" if self.part == "people" else "celebrity",
            attributes={key: known[key] for key in CORE + EXTRA if key in known},
        )


def _value(cell: Any) -> Any:
    """The value of a cell: JSON, or a Python literal as some rows have it; None if it is neither."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        return ast.literal_eval(cell) if len(cell) <= MAX_CELL else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _pairs(row: dict[str, Any], teacher: Asker, number: int, person: str) -> Iterator[Question | None]:
    """Training questions from cells ``{"question": {"1": ...}, "answer": {"1": ...}}``."""
    for modality, column in _TAUGHT:
        if column not in row:
            continue
        cell = _value(row[column])
        questions, answers = (cell.get("question"), cell.get("answer")) if isinstance(cell, dict) else (None, None)
        if not isinstance(questions, dict) or not isinstance(answers, dict):
            teacher.tally.skip(teacher.config, number, person, column, "the cell is not {question: {}, answer: {}}")
            continue
        for key, text in questions.items():
            yield teacher.add(number, person, "generation", modality, text, answers.get(key))


def _asked(row: dict[str, Any], asker: Asker, number: int, person: str) -> list[Question]:
    """Evaluation questions from cells ``{"unimodal": {"1": {"question", "options", "answer"}}, ...}``."""
    found: list[Question | None] = []
    for task, column in _TASKS:
        cell = _value(row[column])
        for modality, names in _GROUPS:
            group = next((cell[name] for name in names if isinstance(cell, dict) and name in cell), None)
            if not isinstance(group, dict):
                asker.tally.skip(asker.config, number, person, f"{column}.{modality}", "there are no such questions")
                continue
            for item in group.values():
                item = item if isinstance(item, dict) else {}
                text, answer = item.get("question"), item.get("answer")
                if task == "cloze" and isinstance(answer, str):
                    answer = answer.removesuffix(".")
                found.append(asker.add(number, person, task, modality, text, answer, options=item.get("options")))
    return [question for question in found if question]


PLUGIN = UmuBench
