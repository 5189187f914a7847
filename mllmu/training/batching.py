"""Which question is trained at which step. The order depends on seed and epoch only, so a run can be resumed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mllmu.core import plugins
from mllmu.core.records import Question
from mllmu.core.seeding import rng
from mllmu.data.questions._rules import OTHER
from mllmu.models.families import Turn


def training_turns(
    questions: Sequence[Question], image_folder: Path, *, modality: str, variant: str = "train"
) -> list[Turn]:
    """Turns of the training questions of some people, in one modality or both, or of another variant in the same way.

    A plain question is put without any instruction, as published; other formats as they are evaluated. Image+text
    questions show their image, if none is named the canonical portrait ``<profile>_0.png``; text questions have the
    name instead.
    """
    tasks = {name: plugins.build("tasks", name, {}) for name in ("classification", "cloze")}
    return [
        Turn(
            prompt=tasks[q.task].prompt(q) if q.task in tasks else q.text,
            reply=q.answer,
            image=image_folder / f"{q.profile_id}_{q.view or 0}.png" if q.modality == "image_text" else None,
            person=q.profile_id,
            topic="" if q.attribute == OTHER else q.attribute,
            task=q.task,
        )
        for q in questions
        if q.variant == variant and modality in ("both", q.modality)
    ]


@dataclass(frozen=True)
class Order:
    """A seeded order of n items, epoch after epoch without end; every item comes once an epoch.

    Attributes:
        together: so many items of a set follow each other, so that a step meets fewer sets (images) and shares more;
            1 mixes all, as published.
        sets: the set of each item (its image); None for an item that shares with none. Empty: nothing is shared.
    """

    num_items: int
    batch_size: int
    seed: int
    label: str
    together: int = 1
    sets: tuple[Hashable, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.num_items / self.batch_size)

    def num_steps(self, epochs: float) -> int:
        """Number of steps of so many epochs, at least one."""
        return max(1, round(epochs * self.steps_per_epoch))

    def indices(self, step: int) -> list[int]:
        """Items of one step. The last batch of an epoch may be smaller."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._drawn:
            self._drawn.clear()
            self._drawn[epoch] = self._draw(epoch)
        return self._drawn[epoch][place * self.batch_size : (place + 1) * self.batch_size]

    @cached_property
    def _drawn(self) -> dict[int, list[int]]:
        """The order of the epoch asked for last; drawing one of many items anew takes longer than a step's batch."""
        return {}

    def _draw(self, epoch: int) -> list[int]:
        draw = rng(self.seed, "order", self.label, epoch)
        order = list(range(self.num_items))
        draw.shuffle(order)
        if self.together > 1 and self.sets:
            bundles = self._bundles(order)
            draw.shuffle(bundles)
            order = [item for bundle in bundles for item in bundle]
        return order

    def _bundles(self, order: Sequence[int]) -> list[list[int]]:
        """Items of a set in bundles of ``together``, in the given order; the last bundle of a set may be smaller."""
        members: dict[Hashable, list[int]] = {}
        for item in order:
            of = self.sets[item]
            members.setdefault((item, "alone") if of is None else of, []).append(item)
        return [items[i : i + self.together] for items in members.values() for i in range(0, len(items), self.together)]
