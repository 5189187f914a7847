"""A finished data folder, read back: the people, their questions, and who is forgotten.

data/profiles.jsonl    all people: fictitious people, then holdout and calibration people, then celebrities
data/questions.jsonl   their questions: train, eval and test for the people; eval for all others
data/splits.json       {"5": [ids], "10": [ids], ..., "holdout": [ids], "calibration": [ids]}
data/images/           <id>_0.png is the portrait, <id>_1.png ... the transformed views

:mod:`mllmu.data.build` makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mllmu.core.records import Profile, Question
from mllmu.core.runfolder import intact, read_lines, read_record

PROFILES, QUESTIONS, SPLITS = "profiles.jsonl", "questions.jsonl", "splits.json"
HOLDOUT, CALIBRATION = "holdout", "calibration"
"""The keys of ``splits.json`` with people on whom no model is trained; every other key is a forget ratio."""


def image_path(person: str, view: int = 0) -> str:
    """Path of one image of a person, relative to the data folder; view 0 is the portrait."""
    return f"images/{person}_{view}.png"


def image_files(folder: Path, person: str) -> list[Path]:
    """The images of a person in a data folder, in the order of the views."""
    found: list[Path] = []
    while (path := folder / image_path(person, len(found))).is_file():
        found.append(path)
    return found


@dataclass(frozen=True)
class Dataset:
    """What the data stage wrote."""

    folder: Path
    profiles: list[Profile]
    questions: list[Question]
    splits: dict[str, list[str]]
    steps: tuple[Any, ...] = ()
    """What each request of the recipe forgets, as :class:`mllmu.data.facts.FactSet`; empty: the forget people."""
    further: Mapping[str, list[Question]] = field(default_factory=dict)
    """Questions of further sets about these people, by set."""

    @cached_property
    def keys(self) -> list[str]:
        """The forget ratios in percent."""
        return [key for key in self.splits if key not in (HOLDOUT, CALIBRATION)]

    @cached_property
    def celebrities(self) -> list[str]:
        return [p.id for p in self.profiles if p.kind == "celebrity"]

    @cached_property
    def holdout(self) -> list[str]:
        """People on whom no model is trained and about whom no method reads anything: evaluation asks about them."""
        return self.splits.get(HOLDOUT, [])

    @cached_property
    def calibration(self) -> list[str]:
        """Other such people, for methods to compare with; no evaluation asks about them."""
        return self.splits.get(CALIBRATION, [])

    @cached_property
    def people(self) -> list[str]:
        """Ids of the fictitious people on whom the target is fine-tuned."""
        hidden = {*self.holdout, *self.calibration, *self.celebrities}
        return [p.id for p in self.profiles if p.id not in hidden]

    @cached_property
    def names(self) -> dict[str, str]:
        return {p.id: p.name for p in self.profiles}

    def retained(self, key: str) -> list[str]:
        """The people who are not forgotten at a ratio."""
        gone = set(self.splits[key])
        return [person for person in self.people if person not in gone]

    def views(self, person: str) -> int:
        """Number of images of a person."""
        return len(image_files(self.folder, person))


def load(folder: Path) -> Dataset:
    """Read a data folder.

    Raises:
        DataError, RunStoreError: a file is missing or damaged; names it.
    """
    intact(folder)  # images too
    splits = read_record(folder / SPLITS, dict[str, list[str]])
    return Dataset(folder, read_lines(folder / PROFILES, Profile), read_lines(folder / QUESTIONS, Question), splits)
