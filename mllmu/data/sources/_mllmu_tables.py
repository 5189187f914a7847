"""MLLMU-Bench as published: ten configs of parquet tables read into people, questions, images and forget sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mllmu.core.errors import DataError
from mllmu.core.records import MODALITIES, Modality, Profile, Question, TaskName
from mllmu.data.published.recover import CORE, EXTRA, Recovery, recover_person, summarise
from mllmu.data.published.recover import Person as Recovered
from mllmu.data.published.schema import GROUPS, TYPES, Pair, validated
from mllmu.data.published.store import Store, Table, is_hub_name
from mllmu.data.sources._published import Asker, Found, Shown, Tally, usable_id

CELEBRITIES = "Retain_Set"
PEOPLE = ("Full_Set", "ft_Data", "Test_Set")
RATIOS = (5, 10, 15)
TASK_COLUMNS = ("Classification_Task", "Generation_Task", "Mask_Task")
_FORGET = re.compile(r"forget_0*(\d+)$")
_PAIRS = TypeAdapter(list[Pair])
_TRAINING = (
    "Expected training text: the config ft_Data, or a folder of MLLMMU/baseline_train_split, whose 'metadata' is a "
    "JSON list of {ID, Question, Answer}. Tables with Classification_Task, Generation_Task and Mask_Task are for "
    "evaluation."
)
_KEYS = {
    "name": "name",
    "fullname": "name",
    "born": "birthplace",
    "birthplace": "birthplace",
    "placeofbirth": "birthplace",
    "dateofbirth": "birth_date",
    "gender": "gender",
    "employment": "profession",
    "occupation": "profession",
    "profession": "profession",
    "height": "height",
    "educatedat": "education",
    "education": "education",
    "annualsalary": "salary",
    "salary": "salary",
    "residence": "residence",
    "medicalcondition": "medical_condition",
}
"""Published keys without case, spaces, colons and a plural s, and our names."""


def attributes_of(biography: Any) -> dict[str, str]:
    """The attributes of a ``biography`` cell; unknown keys and empty values are left out.

    >>> attributes_of('{"Name:": "Ada Bell", "Medical Conditions": "Asthma", "Parents": {"Father:": "baker"}}')
    {'name': 'Ada Bell', 'medical_condition': 'Asthma', 'father_job': 'baker'}
    """
    try:
        cell = json.loads(biography) if isinstance(biography, str) else biography
    except (json.JSONDecodeError, RecursionError):
        return {}
    found: dict[str, str] = {}
    for key, value in cell.items() if isinstance(cell, dict) else ():
        plain = _plain(key)
        if plain in _KEYS and isinstance(value, str) and value.strip():
            found.setdefault(_KEYS[plain], value.strip())
        elif plain == "parent" and isinstance(value, dict):
            jobs = {_plain(parent): job for parent, job in value.items() if isinstance(job, str) and job.strip()}
            found |= {f"{parent}_job": jobs[parent].strip() for parent in ("father", "mother") if parent in jobs}
    return found


def _plain(key: Any) -> str:
    return re.sub(r"[^a-z]", "", str(key).casefold()).removesuffix("s")


@dataclass(frozen=True)
class Row:
    """One row of a config with its number and its person."""

    number: int
    person: str
    value: dict[str, Any]


class Reader:
    """Reads one data set of this layout.

    Args:
        store: the data set.
        training: the repository with the baseline training splits, if the training text comes from there.
    """

    def __init__(self, store: Store, training: Store | None = None) -> None:
        self.store = store
        self.training = training
        self.found = Found()
        self.tally: Tally = self.found.tally
        self.recovered: dict[str, Recovered] = {}
        self.facts: dict[str, dict[str, str]] = {}

    def people(self) -> Found:
        """The fictitious people with training text, eval and test questions, portraits and forget sets."""
        self._check_configs(("Full_Set", "Test_Set") if self.training else PEOPLE)
        self._read_training(self.training or self.store)
        full = self._open("Full_Set", ("ID", "image", *TASK_COLUMNS))
        self._read_questions("Full_Set", full, "eval", kind="fictitious", shown=("image",))
        test = self._open("Test_Set", ("ID", "images", *TASK_COLUMNS))
        self._read_questions("Test_Set", test, "test", kind="", shown=("images",))
        self._read_forget()
        self._check_retained()
        return self.found

    def celebrities(self) -> Found:
        """The real people of Retain_Set; a purely numeric id gets a 'c' in front, so that it is nobody else's."""
        self._check_configs((CELEBRITIES,))
        table = self._open(CELEBRITIES, ("ID", "image", *TASK_COLUMNS))
        self._read_questions(CELEBRITIES, table, "eval", kind="celebrity", shown=("image",))
        return self.found

    def report(self) -> Recovery:
        """What was recovered from the training text."""
        return summarise(list(self.recovered.values()))

    def _check_configs(self, needed: tuple[str, ...]) -> None:
        here = self.store.configs()
        missing = [config for config in needed if config not in here]
        if missing:
            at = self.store.path
            inside = not here and not self.store.on_hub and any(at.glob("*.parquet"))
            hint = f" '{at.name}' is itself one config; name the folder that holds the ten." if inside else ""
            if inside and at.name == CELEBRITIES:
                hint += " Retain_Set holds the celebrities; the retained people are in retain_95, retain_90, retain_85."
            raise DataError(
                f"{at.as_posix()}: no config {', '.join(missing)}; it has {', '.join(here) or 'none'}.{hint} "
                "Expected a copy of MLLMMU/MLLMU-Bench with a folder of parquet files per config."
            )

    def _open(self, config: str, columns: tuple[str, ...]) -> Table:
        table = self.store.table(config)
        table.need(columns)
        return table

    def _rows(self, config: str, table: Table, columns: tuple[str, ...], prefix: str = "") -> Iterator[Row]:
        """Rows with an id that is usable and new; the others are noted."""
        seen: dict[str, int] = {}
        for number, value in enumerate(table.rows(columns)):
            self.tally.rows[config] += 1
            person = usable_id(value["ID"])
            if person is None:
                reason = f"the ID {value['ID']!r} is not made of 1 to 64 letters, digits, '_' and '-'"
                self.tally.skip(config, number, str(value["ID"])[:80], "row", reason)
                continue
            person = f"{prefix}{person}" if prefix and person.isdigit() else person
            if person in seen:
                self.tally.skip(config, number, person, "row", f"the ID was already given in row {seen[person]}")
                continue
            seen[person] = number
            yield Row(number, person, value)

    def _read_training(self, store: Store) -> None:
        """Training pairs by person, from ft_Data or from all folders of the baseline training splits."""
        configs = ["ft_Data"] if store is self.store else store.configs()
        for config in configs:
            table = store.table(config)
            table.need(("metadata",), _TRAINING)
            for number, row in enumerate(table.rows(("metadata",))):
                self.tally.rows[config] += 1
                self._read_pairs(config, table, number, row["metadata"])

    def _read_pairs(self, config: str, table: Table, number: int, cell: Any) -> None:
        where = f"{table.where(number)}: metadata"
        try:
            pairs = validated(_PAIRS, cell if isinstance(cell, (str, list)) else [], where)
        except DataError as error:
            self.tally.skip(config, number, "", "row", str(error))
            return
        by_person: dict[str, list[tuple[str, str]]] = {}
        for pair in pairs:
            self.tally.questions[config] += 1
            by_person.setdefault(pair.ID, []).append((pair.Question, pair.Answer))
        if not pairs:
            self.tally.skip(config, number, "", "row", "'metadata' holds no training pair")
        for person, texts in by_person.items():
            if person not in self.recovered:
                self.recovered[person] = recover_person(person, texts)
            elif [(qa.question, qa.answer) for qa in self.recovered[person].training_qa] != texts:
                self.tally.skip(config, number, person, "row", "an earlier table gives other training text")

    def _read_questions(self, config: str, table: Table, variant: str, *, kind: str, shown: tuple[str, ...]) -> None:
        about = tuple(name for name in ("biography", "answer") if kind and name in table.columns)
        columns = ("ID", *TASK_COLUMNS, *about)
        asker = Asker(config, variant, self.tally, self.facts)
        for row in self._rows(config, table, columns, prefix="c" if kind == "celebrity" else ""):
            if kind and not self._introduce(config, row, kind):
                continue
            if not kind and row.person not in self.found.images:
                self.tally.skip(config, row.number, row.person, "row", "the person is not in Full_Set")
                continue
            self._show(table, row, shown[0])
            self.found.questions.setdefault(row.person, []).extend(asked(asker, row))
        if variant == "test":
            known = {
                q.profile_id for questions in self.found.questions.values() for q in questions if q.variant == "test"
            }
            lost = [p.id for p in self.found.people if p.id not in known]
            if lost:
                self.tally.notes.append(f"{len(lost)} people have no test questions, first {lost[0]}")

    def _introduce(self, config: str, row: Row, kind: str) -> bool:
        text = self.recovered.get(row.person)
        told = attributes_of(row.value.get("biography"))
        attributes = told | (text.attributes if text else {})
        name = attributes.get("name")
        if not name or (kind == "fictitious" and text is None):
            reason = "the biography has no name" if not name else "there is no training text with this ID"
            self.tally.skip(config, row.number, row.person, "row", reason)
            return False
        self.facts[row.person] = {key: attributes[key] for key in CORE + EXTRA if key in attributes}
        self.found.people.append(
            Profile(
                id=row.person,
                kind=kind,  # type: ignore[arg-type]
                attributes=self.facts[row.person],
                biography=str(row.value.get("answer") or ""),
                training_qa=text.training_qa if text else (),
            )
        )
        return True

    def _show(self, table: Table, row: Row, column: str) -> None:
        shown = self.found.images.setdefault(row.person, [])
        if column == "image":
            shown.append(Shown(table, row.number, column))
            return
        shown += [Shown(table, row.number, column, place) for place in range(len(table.cell(row.number, column) or ()))]

    def _read_forget(self) -> None:
        """Who is forgotten, from the configs forget_5, forget_10, forget_15 (and forget_05 of the training splits)."""
        people = {p.id for p in self.found.people}
        for store in [self.store, *([self.training] if self.training else [])]:
            for config in store.configs():
                match = _FORGET.fullmatch(config)
                table = store.table(config) if match else None
                if match and table and "ID" in table.columns and match[1] not in self.found.forget:
                    rows = list(self._rows(config, table, ("ID",)))
                    self._keep_known(config, rows, people)
                    self.found.forget[match[1]] = [row.person for row in rows if row.person in people]
        absent = [ratio for ratio in RATIOS if str(ratio) not in self.found.forget]
        if absent:
            self.tally.notes.append(f"no published forget set of {absent} percent; such a ratio is drawn by the seed")

    def _keep_known(self, config: str, rows: list[Row], people: set[str]) -> None:
        for row in rows:
            if row.person not in people:
                self.tally.skip(config, row.number, row.person, "row", "the person is not in Full_Set, or not usable")

    def _check_retained(self) -> None:
        """retain_95 must be everybody but forget_5; the celebrities of Retain_Set are a usual mistake."""
        everybody = {p.id for p in self.found.people}
        for config in self.store.configs():
            if not re.fullmatch(r"retain_\d+", config):
                continue
            rows = list(self._rows(config, self.store.table(config), ("ID",)))
            ids = {row.person for row in rows}
            if ids and not ids & everybody:
                raise DataError(
                    f"{self.store.path.as_posix()}/{config}: none of its {len(ids)} people is in Full_Set. Expected "
                    "the retained fictitious people; the celebrities of Retain_Set do not belong here. Download "
                    f"{config} again."
                )
            self._keep_known(config, rows, everybody)
            forgotten = self.found.forget.get(f"{100 - int(config.removeprefix('retain_'))}")
            if forgotten is not None and ids & set(forgotten):
                self.tally.notes.append(f"{config} and the forget set share {len(ids & set(forgotten))} people")


def asked(asker: Asker, row: Row) -> list[Question]:
    """The questions of one row, in the published order within task and modality."""
    found: list[Question | None] = []
    classification = row.value["Classification_Task"] or {}
    for modality in MODALITIES:
        for item in classification.get(GROUPS[modality]) or ():
            options, answer = item.get("Options") or {}, item.get("Correct_Answer")
            found.append(
                asker.add(
                    row.number, row.person, "classification", modality, item.get("Question"), answer, options=options
                )
            )
    for task, column in (("generation", "Generation_Task"), ("cloze", "Mask_Task")):
        found += _open_ended(asker, row, task, column)  # type: ignore[arg-type]
    return [question for question in found if question]


def _open_ended(asker: Asker, row: Row, task: TaskName, column: str) -> Iterator[Question | None]:
    for place, item in enumerate(row.value[column] or ()):
        modality = _modality(item.get("Type"))
        if modality is None:
            asker.tally.questions[asker.config] += 1
            reason = f"the Type {item.get('Type')!r} is neither of {list(TYPES.values())}"
            asker.tally.skip(asker.config, row.number, row.person, f"{column}[{place}]", reason)
            continue
        yield asker.add(row.number, row.person, task, modality, item.get("Question"), item.get("Ground_Truth"))


def _modality(kind: Any) -> Modality | None:
    plain = re.sub(r"[^a-z]", "", str(kind).casefold())
    return "image_text" if plain.startswith("image") else "text" if plain.startswith("puretext") else None


def training_store(path: Path) -> Store:
    """The baseline training splits; they are a *model* repository of the hub, so they are fetched as files."""
    if not is_hub_name(path):
        return Store(path)
    from huggingface_hub import snapshot_download

    try:
        return Store(Path(snapshot_download(path.as_posix(), allow_patterns=["*.parquet"])))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path.as_posix()}: the hub does not give this repository: {' '.join(str(error).split())[:300]}. "
            "Check the name and the network, or name a local copy."
        ) from None
