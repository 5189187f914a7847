"""The four sets that the published evaluator asks about, as a data folder; training text is not needed.

    forget     config forget_R                 celebrity  config Retain_Set
    retain     config retain_Q, Q = 100 - R    test       rows of config Test_Set about the people of forget_R

People come in the order of Full_Set, in which examples are looked up. Whereas the source ``mllmu_bench`` lists what it
cannot use, all rows and questions must be usable here: the published evaluator leaves nothing out.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.errors import DataError
from mllmu.core.records import OTHER_ATTRIBUTE, Profile, Question
from mllmu.core.runfolder import dump_lines, write_atomic
from mllmu.data.dataset import PROFILES, QUESTIONS, SPLITS, image_path
from mllmu.data.published.ids import PersonIds, usable_id
from mllmu.data.published.schema import CELEBRITIES, FULL_SET, GROUPS, TASKS, TEST_SET, items
from mllmu.data.published.store import SCHEMA_ADVICE, Store, Table
from mllmu.data.questions import Variant

_EXPECTED = (
    f"Expected the folder of the published configs with {FULL_SET}, {TEST_SET}, {CELEBRITIES}, forget_R and retain_Q "
    "(Q = 100 - R), as `mllmu data --export mllmu-bench` writes it."
)


class SetRow(NamedTuple):
    """One person in a config, with the columns of the three tasks."""

    table: Table
    number: int
    tasks: dict[str, Any]


def write_sets(root: Path, ratio: int, folder: Path, *, test_image: int) -> None:
    """Write what the published evaluator reads for one forget ratio, see :mod:`mllmu.data.dataset`.

    A celebrity whose ID is also that of a fictitious person gets a 'c' in front.

    Args:
        root: folder of the configs.
        ratio: forgotten people in percent.
        folder: gets the people, their questions and images, and the forget set.
        test_image: index of the image that is shown of every person in the test set.

    Raises:
        DataError: a config is missing or has another schema, a person has no image of that index, or an image cannot
            be decoded.
    """
    _check_ratio(root, ratio)
    full, stars = _rows(root, FULL_SET), _rows(root, CELEBRITIES)
    ids = PersonIds(full)
    forget, retain, test = (_rows(root, c, ids) for c in (f"forget_{ratio}", f"retain_{100 - ratio}", TEST_SET))
    if untested := [person for person in forget if person not in test]:
        raise DataError(
            f"{root / TEST_SET}: no row about {len(untested)} people of forget_{ratio}, first '{untested[0]}'. "
            "Expected one row for each of them; download the config again."
        )
    order = {person: number for number, person in enumerate(full)}
    people = dict(sorted((retain | forget).items(), key=lambda item: order[item[0]]))
    celebrities = {f"c{person}" if person in people else person: row for person, row in stars.items()}
    profiles: list[Profile] = []
    questions: list[Question] = []
    for person, row in (people | celebrities).items():
        profiles.append(Profile(id=person, kind="celebrity" if person in celebrities else "fictitious", attributes={}))
        questions += _questions(row.tasks, person, "eval", row.table.where(row.number))
        _write_images(folder, person, row, first=0)
    for person, row in test.items():
        if person in forget:
            row.table.image(row.number, "images", test_image)
            questions += _questions(row.tasks, person, "test", row.table.where(row.number))
            _write_images(folder, person, row, first=1)
    write_atomic(folder / PROFILES, dump_lines(profiles))
    write_atomic(folder / QUESTIONS, dump_lines(questions))
    write_atomic(folder / SPLITS, json.dumps({str(ratio): list(forget)}) + "\n")


def _check_ratio(root: Path, ratio: int) -> None:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. {_EXPECTED}")
    known = (root / f"{kind}_{share}" for kind, share in (("forget", ratio), ("retain", 100 - ratio)))
    if missing := [config.name for config in known if not config.is_dir()]:
        there = (match[1] for path in root.iterdir() if (match := re.fullmatch(r"forget_(\d+)", path.name)))
        ratios = ", ".join(map(str, sorted(map(int, there)))) or "none"
        raise DataError(f"{root}: no config {' and '.join(missing)}; forget ratios there: {ratios}. {_EXPECTED}")


def _write_images(folder: Path, person: str, row: SetRow, *, first: int) -> None:
    """Write the images of a row as views ``first``, ``first + 1`` ... of the person."""
    items = range(len(row.table.cell(row.number, "images") or ())) if first else (None,)
    for view, item in enumerate(items, start=first):
        buffer = io.BytesIO()
        row.table.image(row.number, "images" if first else "image", item).save(buffer, format="PNG")
        write_atomic(folder / image_path(person, view), buffer.getvalue())


def _rows(root: Path, config: str, ids: PersonIds | None = None) -> dict[str, SetRow]:
    """The rows of a config by ID, which ``ids`` must know; shards in the order of their names."""
    if not any((root / config).glob("*.parquet")):
        raise DataError(f"{root / config}: no parquet file. {_EXPECTED}")
    table = Store(root).table(config)
    table.need(("ID", *TASKS))
    rows: dict[str, SetRow] = {}
    for number, row in enumerate(table.rows(("ID", *TASKS))):
        person = usable_id(row["ID"])
        if ids and person and (person := ids.find(person)) is None:
            raise DataError(
                f"{table.where(number)}: the ID {row['ID']!r} is not in {FULL_SET}. Expected people of {FULL_SET} "
                "only; correct the ID, or download both configs again."
            )
        if person is None or person in rows:
            raise DataError(
                f"{table.where(number)}: the ID {row['ID']!r} is not usable or appears twice. Expected one row per "
                "person."
            )
        rows[person] = SetRow(table, number, row)
    return rows


def _questions(row: Mapping[str, Any], person: str, variant: Variant, where: str) -> Iterator[Question]:
    """The questions of a row; each is numbered by its place in its list, as the published evaluator counts."""
    groups = [(row["Classification_Task"] or {}).get(group) for group in GROUPS.values()]
    if None in (*groups, row["Generation_Task"], row["Mask_Task"]):
        raise DataError(f"{where}: a task has no list of questions. {SCHEMA_ADVICE}")
    for item in items(row):
        if not (item.modality and isinstance(item.text, str) and isinstance(item.answer, str)):
            raise DataError(
                f"{where}: {item.column}[{item.position}]: got Type {item.type!r}, question {item.text!r} and answer "
                f"{item.answer!r}. {SCHEMA_ADVICE}"
            )
        options = {letter: str(value) for letter, value in (item.options or {}).items()}
        if item.task == "classification" and (missing := set("ABCD") - set(options)):
            raise DataError(f"{where}: a question has no option {min(missing)}. Expected the options A, B, C, D.")
        yield Question(
            id=f"{person}.{variant}.{item.task}.{item.modality}.{item.position}", profile_id=person, variant=variant,
            task=item.task, modality=item.modality, attribute=OTHER_ATTRIBUTE, text=item.text, answer=item.answer,
            value=options.get(item.answer, item.answer), options=options,
        )  # fmt: skip
