"""Where the people come from: one file per source, see :class:`Source`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mllmu.core.errors import DataError
from mllmu.core.plugins import Plugin
from mllmu.core.progress import Progress
from mllmu.core.records import Profile, Question

if TYPE_CHECKING:
    from PIL.Image import Image

    from mllmu.llm import Preview


class Source(Plugin, ABC):
    """Base of all sources: the people, and whatever else the source brings about them.

    Only :meth:`profiles` is needed. What a source does not bring, the data stage makes: questions, images, and who
    is forgotten.

    ``published``: the text and images are used as somebody published them. Questions then need only be usable;
    flaws of wording, equal names and equal images are counted and reported (``data/source.json``), not refused.
    ``filled``: the variants that are written for a source that brings questions, but none of this variant.
    """

    published: ClassVar[bool] = False
    filled: ClassVar[tuple[str, ...]] = ("train", "eval", "test")

    @abstractmethod
    def profiles(self, seed: int) -> list[Profile]:
        """The people, in the order in which they are asked; equal seeds give equal people.

        Raises:
            DataError: the source is missing, damaged, or contradicts itself.
        """

    def generate(self, seed: int, progress: Progress) -> list[Profile]:
        """The same people, for a source that takes its time and says how far it is."""
        del progress
        return self.profiles(seed)

    def preview(self, seed: int, num_prompts: int) -> Preview | None:
        """What :meth:`profiles` would ask an endpoint; None for a source without one."""
        del seed, num_prompts
        return None

    def questions(self, profiles: Sequence[Profile], seed: int) -> list[Question] | None:
        """The source's own questions about its people, or None.

        A variant (train, eval, test) with at least one question here is taken as it is; those of the others that are
        in ``filled`` are written by the recipe's writer. For celebrities only ``eval`` is used.
        """
        del profiles, seed
        return None

    def num_views(self, profile: Profile) -> int:
        """Number of the source's own images of a person; 0: the portraits of the recipe are drawn instead.

        Image 0 is the portrait; the others are shown by the test questions.
        """
        del profile
        return 0

    def image(self, profile: Profile, view: int) -> Image:
        """One of the ``num_views`` images, in RGB, as large as it is; raises DataError if it cannot be read."""
        raise DataError(f"{type(self).__name__} has no image {view} of {profile.id}.")

    def forget_ids(self) -> Mapping[str, Sequence[str]]:
        """Who is forgotten, by percent (``{"5": [ids]}``), where the source prescribes it; others are drawn."""
        return {}

    def account(self) -> dict[str, Any]:
        """What was read, and what was left out and why, as JSON values; ``summary`` is shown as one line."""
        return {}
