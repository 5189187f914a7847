"""The four sets that the published evaluator asks about, read from parquet files in the published layout.

    forget     config forget_R                 celebrity  config Retain_Set
    retain     config retain_Q, Q = 100 - R    test       rows of config Test_Set about the people of forget_R

Examples are looked up in Full_Set. Images stay in the files until they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import TypeAdapter

from mllmu.core.errors import DataError
from mllmu.core.records import MODALITIES, Modality, Question, Split, TaskName
from mllmu.data.published.schema import CELEBRITIES, FULL_SET, GROUPS, TEST_SET, TYPES, TaskRow, validated
from mllmu.data.published.store import Store, Table, decode_image

PUBLISHED_SPLITS: tuple[Split, ...] = ("forget", "test", "retain", "celebrity")
_OPENED_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class PublishedPerson:
    """One row: a person with the questions of the three tasks, numbered by their place in the published lists."""

    id: str
    image: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class PublishedImages:
    """The images of some configs, by a name like ``forget_5/012``, or ``Test_Set/012#1`` where there are several."""

    places: dict[str, tuple[Table, int]] = field(default_factory=dict)
    """Person's name -> table, row."""

    def open(self, name: str) -> Image.Image:
        """An image as RGB; DataError if it is not there or cannot be decoded."""
        return _image(self, name)

    def __hash__(self) -> int:
        return id(self)


@lru_cache(maxsize=_OPENED_IMAGES)
def _image(images: PublishedImages, name: str) -> Image.Image:
    person, _, number = name.partition("#")
    table, row = images.places[person]
    cell = table.cell(row, "images" if "images" in table.columns else "image")
    if number:
        if not cell or int(number) >= len(cell):
            raise DataError(f"{table.name}: '{person}' has {len(cell or ())} images, asked for index {number}.")
        cell = cell[int(number)]
    return decode_image(cell, f"{table.name}: '{person}'")


@dataclass(frozen=True, kw_only=True)
class PublishedSets:
    """The people of the four sets, those that examples are taken from, and the images of all."""

    people: Mapping[Split, Sequence[PublishedPerson]]
    full: Sequence[PublishedPerson]
    images: PublishedImages

    def shot_people(self, split: Split, listed: Sequence[str]) -> list[PublishedPerson]:
        """The listed people who belong to a set, as Full_Set knows them, in its order."""
        wanted = {person.id for person in self.people[split]} & set(listed)
        return [person for person in self.full if person.id in wanted]


def read_sets(root: Path, ratio: int, *, test_image: int) -> PublishedSets:
    """Read what the published evaluator reads for one forget ratio.

    Args:
        root: folder of the configs.
        ratio: forgotten people in percent.
        test_image: index of the image that is shown of everybody in the test set.

    Raises:
        DataError: a config is missing or has another schema, or a person has no image of that index.
    """
    images = PublishedImages()
    forget = list(_people(root, f"forget_{ratio}", images))
    forgotten = {person.id for person in forget}
    test = [person for person in _people(root, TEST_SET, images, view=test_image) if person.id in forgotten]
    for person in test:
        images.open(person.image)
    people: dict[Split, list[PublishedPerson]] = {
        "forget": forget,
        "test": test,
        "retain": list(_people(root, f"retain_{100 - ratio}", images)),
        "celebrity": list(_people(root, CELEBRITIES, images)),
    }
    return PublishedSets(people=people, full=list(_people(root, FULL_SET, images)), images=images)


def _people(root: Path, config: str, images: PublishedImages, *, view: int | None = None) -> Iterator[PublishedPerson]:
    variant = "test" if config == TEST_SET else "eval"
    for where, place, row in _rows(root, config):
        name = f"{config}/{row.ID}"
        if name in images.places:
            raise DataError(f"{where}: ID '{row.ID}' appears twice. Expected one row a person.")
        images.places[name] = place
        shown = name if view is None else f"{name}#{view}"
        yield PublishedPerson(id=row.ID, image=shown, questions=tuple(_questions(row, variant, where)))


def _rows(root: Path, config: str) -> Iterator[tuple[str, tuple[Table, int], TaskRow]]:
    """Where each row of a config is, and its tasks; shards in the order of their names."""
    if not any((root / config).glob("*.parquet")):
        raise DataError(
            f"{root / config}: no parquet file. Expected the folder of the published configs with {FULL_SET}, "
            f"{TEST_SET}, {CELEBRITIES}, forget_R and retain_Q (Q = 100 - R), as `mllmu data --export mllmu-bench` "
            "writes it."
        )
    table, columns = Store(root).table(config), list(TaskRow.model_fields)
    table.need(columns)
    adapter = TypeAdapter(TaskRow)
    for number, row in enumerate(table.rows(columns)):
        where = table.where(number)
        yield where, (table, number), validated(adapter, row, where)


def _questions(row: TaskRow, variant: str, where: str) -> Iterator[Question]:
    """The questions of a row; each is numbered by its place in its list, as the published evaluator counts."""
    for modality in MODALITIES:
        for number, choice in enumerate(getattr(row.Classification_Task, GROUPS[modality])):
            options = {letter: str(value) for letter, value in choice.Options.items()}
            if missing := set("ABCD") - set(options):
                raise DataError(f"{where}: a question has no option {min(missing)}. Expected the options A, B, C, D.")
            value = options.get(choice.Correct_Answer, choice.Correct_Answer)
            yield Question.model_validate(
                {
                    **_about(row, variant, "classification", modality, number),
                    "text": choice.Question,
                    "answer": choice.Correct_Answer,
                    "value": value,
                    "options": options,
                }
            )
    kinds = {kind: modality for modality, kind in TYPES.items()}
    lists: dict[TaskName, Sequence[Any]] = {"cloze": row.Mask_Task, "generation": row.Generation_Task}
    for task, items in lists.items():
        for number, item in enumerate(items):
            about = _about(row, variant, task, kinds[item.Type], number)
            truth = item.Ground_Truth
            yield Question.model_validate({**about, "text": item.Question, "answer": truth, "value": truth})


def _about(row: TaskRow, variant: str, task: TaskName, modality: Modality, number: int) -> dict[str, Any]:
    return {
        "id": f"{row.ID}.{variant}.{task}.{modality}.{number}",
        "profile_id": row.ID,
        "variant": variant,
        "task": task,
        "modality": modality,
        "attribute": "other",
    }
