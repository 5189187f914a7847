"""The four sets that the published evaluator asks about, read from parquet files in the published layout.

    forget     config forget_R                 celebrity  config Retain_Set
    retain     config retain_Q, Q = 100 - R    test       rows of config Test_Set about the people of forget_R

Examples are looked up in Full_Set. Images stay in the files until they are shown. Whereas the source ``mllmu_bench``
lists what it cannot use, everything here must be usable: the published evaluator leaves nothing out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from mllmu.core.errors import DataError
from mllmu.core.records import OTHER_ATTRIBUTE, Question, Split
from mllmu.data.published.content import ImageCell, usable_id
from mllmu.data.published.schema import CELEBRITIES, FULL_SET, TASKS, TEST_SET, items
from mllmu.data.published.store import Store
from mllmu.data.questions import Variant

PUBLISHED_SPLITS: tuple[Split, ...] = ("forget", "test", "retain", "celebrity")
_OPENED_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class PublishedPerson:
    """One row: a person with the questions of the three tasks, numbered by their place in the published lists."""

    id: str
    image: str
    questions: tuple[Question, ...]


class PublishedImages:
    """The images of some configs, by a name like ``forget_5/012``, or ``Test_Set/012#1`` where there are several."""

    def __init__(self) -> None:
        self.cells: dict[str, ImageCell] = {}
        self.open = lru_cache(maxsize=_OPENED_IMAGES)(self._open)

    def _open(self, name: str) -> Image.Image:
        """An image as RGB; DataError if it cannot be decoded."""
        return self.cells[name].load()


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
    test = [person for person in _people(root, TEST_SET, images, test_image) if person.id in forgotten]
    for person in test:
        images.open(person.image)
    people: dict[Split, list[PublishedPerson]] = {
        "forget": forget,
        "test": test,
        "retain": list(_people(root, f"retain_{100 - ratio}", images)),
        "celebrity": list(_people(root, CELEBRITIES, images)),
    }
    return PublishedSets(people=people, full=list(_people(root, FULL_SET, images)), images=images)


def _people(root: Path, config: str, images: PublishedImages, view: int | None = None) -> Iterator[PublishedPerson]:
    """The people of a config; shards in the order of their names."""
    if not any((root / config).glob("*.parquet")):
        raise DataError(
            f"{root / config}: no parquet file. Expected the folder of the published configs with {FULL_SET}, "
            f"{TEST_SET}, {CELEBRITIES}, forget_R and retain_Q (Q = 100 - R), as `mllmu data --export mllmu-bench` "
            "writes it."
        )
    table = Store(root).table(config)
    variant: Variant = "test" if config == TEST_SET else "eval"
    table.need(("ID", *TASKS))
    for number, row in enumerate(table.rows(("ID", *TASKS))):
        person, where = usable_id(row["ID"]), table.where(number)
        name = f"{config}/{person}" if view is None else f"{config}/{person}#{view}"
        if person is None or name in images.cells:
            raise DataError(
                f"{where}: the ID {row['ID']!r} is not usable or appears twice. Expected one row per person."
            )
        images.cells[name] = ImageCell(table, number, "image" if view is None else "images", view)
        yield PublishedPerson(id=person, image=name, questions=tuple(_questions(row, person, variant, where)))


def _questions(row: Mapping[str, Any], person: str, variant: Variant, where: str) -> Iterator[Question]:
    """The questions of a row; each is numbered by its place in its list, as the published evaluator counts."""
    for item in items(row):
        if not (item.modality and isinstance(item.text, str) and isinstance(item.answer, str)):
            raise DataError(
                f"{where}: {item.column}[{item.position}]: got Type {item.type!r}, question {item.text!r} and answer "
                f"{item.answer!r}. Expected the published schema; download the data set again."
            )
        options = {letter: str(value) for letter, value in (item.options or {}).items()}
        if item.task == "classification" and (missing := set("ABCD") - set(options)):
            raise DataError(f"{where}: a question has no option {min(missing)}. Expected the options A, B, C, D.")
        yield Question(
            id=f"{person}.{variant}.{item.task}.{item.modality}.{item.position}", profile_id=person, variant=variant,
            task=item.task, modality=item.modality, attribute=OTHER_ATTRIBUTE, text=item.text, answer=item.answer,
            value=options.get(item.answer, item.answer), options=options,
        )  # fmt: skip
