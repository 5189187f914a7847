"""Sources of people: one file per source, see :class:`Source`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from mllmu.core.errors import DataError
from mllmu.core.plugins import Plugin
from mllmu.core.process import Progress
from mllmu.core.records import Profile, Question

if TYPE_CHECKING:
    from PIL.Image import Image

    from mllmu.data.published.content import PublishedData
    from mllmu.llm import Preview


class Source(Plugin, ABC):
    """Base of all sources: the people, and everything else that the source brings about them.

    Only :meth:`profiles` is needed. The data stage makes what a source does not bring: questions, images, and forget
    sets.

    ``invented``: its people do not exist, or are public figures with public facts. Without it what is made of them is
    only put on a hub by ``--push-real-people``.
    ``published``: the text and images are used as they were published. Questions then need only be usable;
    flaws of wording, equal names and equal images are counted and reported (``data/source.json``), not refused.
    ``filled``: the variants that are written for a source that brings questions, but none of this variant.
    ``made``: settings that name files which the run makes, so they need not be there.
    """

    invented: ClassVar[bool] = False
    published: ClassVar[bool] = False
    filled: ClassVar[tuple[str, ...]] = ("train", "eval", "test")
    made: ClassVar[frozenset[str]] = frozenset()

    @property
    def needed_extra(self) -> str:
        """The extra of the package that installs what it needs, e.g. ``people``; empty: it needs none."""
        return ""

    @abstractmethod
    def profiles(self, seed: int) -> list[Profile]:
        """The people, in the order in which they are asked; equal seeds give equal people.

        Raises:
            DataError: the source is missing, damaged, or contradicts itself.
        """

    def expected_people(self) -> int | None:
        """How many people there will be, as far as that is known before anything is made, for estimates."""
        number = getattr(self, "num_people", None)
        return number if isinstance(number, int) else None

    def generate(self, seed: int, progress: Progress) -> list[Profile]:
        """The same people, for a source that takes its time and says how far it is."""
        return self.profiles(seed)

    def preview(self, seed: int, num_prompts: int) -> Preview | None:
        """What :meth:`profiles` would ask an endpoint; None for a source without one."""
        return None

    def questions(self, profiles: Sequence[Profile], seed: int) -> list[Question] | None:
        """The source's own questions about its people, or None.

        A variant (train, eval, test) with at least one question here is taken as it is; those of the others that are
        in ``filled`` are written by the recipe's writer. For celebrities only ``eval`` is used.
        """
        return None

    def num_views(self, profile: Profile) -> int:
        """Number of the source's own images of a person; 0: the portraits of the recipe are drawn instead.

        Image 0 is the portrait; the others are shown by the test questions.
        """
        return 0

    def image(self, profile: Profile, view: int) -> Image:
        """One of the ``num_views`` images, in RGB, as large as it is; raises DataError if it cannot be read."""
        raise DataError(f"{type(self).__name__} has no image {view} of {profile.id}.")

    def forget_ids(self) -> Mapping[str, Sequence[str]]:
        """Forget sets by percent (``{"5": [ids]}``), where the source prescribes them; others are drawn."""
        return {}

    def account(self) -> dict[str, Any]:
        """What was read, and what was left out and why, as JSON values; ``summary`` is shown as one line."""
        return {}

    def inspect(self, folder: Path) -> None:
        """Look through the texts of the data before images are drawn; what must not be kept raises DataError."""


class Published(Source):
    """Base of the sources that read a published data set from a folder or from the hub.

    Settings:
        path: a folder with one folder of parquet files per config, or the name of a hub repository.
        revision: commit, tag or branch on the hub.
        num_people: only the first n people.
    """

    invented: ClassVar[bool] = True
    published: ClassVar[bool] = True
    filled: ClassVar[tuple[str, ...]] = ()

    path: Path = Field(description="folder of parquet configs, or a hub repository by its name")
    revision: str | None = Field(default=None, description="commit, tag or branch on the hub")
    num_people: int | None = Field(default=None, gt=0, le=10**6, description="only the first n people")

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
            unusable = f"{len(skipped)} rows or questions could not be used; the first: {first}. "
            raise DataError(
                f"{self.path.as_posix()}: got {len(data.people)} people, expected at least {self.num_people or 1}. "
                f"{unusable if skipped or not data.people else ''}Lower num_people, or name data with more people."
            )
        data.people = data.people[: self.num_people]
        return data

    def profiles(self, seed: int) -> list[Profile]:
        """The people in published order; ``seed`` has no effect, since nothing is drawn."""
        return list(self.data.people)

    def questions(self, profiles: Sequence[Profile], seed: int) -> list[Question] | None:
        """The published questions of these people."""
        return [q for person in profiles for q in self.data.questions.get(person.id, ())]

    def num_views(self, profile: Profile) -> int:
        return len(self.data.images.get(profile.id, ()))

    def image(self, profile: Profile, view: int) -> Image:
        return self.data.images[profile.id][view]()

    def forget_ids(self) -> Mapping[str, Sequence[str]]:
        """The published forget sets; none if only some of the people are used."""
        return {} if self.num_people else self.data.forget

    def account(self) -> dict[str, Any]:
        return self.data.account.as_json()
