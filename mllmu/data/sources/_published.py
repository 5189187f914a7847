"""The base of all sources that read a published data set: everything is used as it is, and every row accounted for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from PIL.Image import Image
from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.records import Profile, Question
from mllmu.data.published.content import PublishedData
from mllmu.data.sources import Source


class Published(Source):
    """Base of the sources that read a published data set from a folder or from the hub.

    Settings:
        path: a folder with one folder of parquet files per config, or the name of a hub repository.
        revision: commit, tag or branch on the hub.
        num_people: only the first n people.
    """

    published: ClassVar[bool] = True
    filled: ClassVar[tuple[str, ...]] = ()

    path: Path = Field(description="folder of parquet configs, or a hub repository by its name")
    revision: str | None = Field(default=None, description="commit, tag or branch on the hub")
    num_people: int | None = Field(default=None, gt=0, description="only the first n people")

    @abstractmethod
    def read(self) -> PublishedData:
        """Read everything but the images."""

    @cached_property
    def data(self) -> PublishedData:
        """What was read, for the first ``num_people`` people."""
        data = self.read()
        if len(data.people) < (self.num_people or 1):
            skipped = data.account.skipped
            first = next((s["reason"] for s in skipped if s["what"] == "row"), "the data set is empty")
            raise DataError(
                f"{self.path.as_posix()}: got {len(data.people)} people, expected at least {self.num_people or 1}. "
                f"{len(skipped)} rows or questions could not be used; the first: {first}. "
                "Lower num_people, or check the data set."
            )
        data.people = data.people[: self.num_people]
        return data

    def profiles(self, seed: int) -> list[Profile]:
        """The people in published order; ``seed`` has no effect, since nothing is drawn."""
        del seed
        return list(self.data.people)

    def questions(self, profiles: Sequence[Profile], seed: int) -> list[Question] | None:
        """The published questions of these people."""
        del seed
        return [q for person in profiles for q in self.data.questions.get(person.id, ())]

    def num_views(self, profile: Profile) -> int:
        return len(self.data.images.get(profile.id, ()))

    def image(self, profile: Profile, view: int) -> Image:
        return self.data.images[profile.id][view].load()

    def forget_ids(self) -> Mapping[str, Sequence[str]]:
        """The published forget sets; none if only some of the people are used."""
        return {} if self.num_people else self.data.forget

    def account(self) -> dict[str, Any]:
        return self.data.account.as_json()
