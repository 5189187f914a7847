"""Questions from the sentence templates of ``wordings.yaml``: free, offline, and the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mllmu.core.progress import Progress
from mllmu.core.records import Profile, Question
from mllmu.data.questions import Order, Questions, Written
from mllmu.data.questions._build import build


class Template(Questions):
    """Sentence templates, disjoint for training, evaluation and the reworded test; wrong answers are other people's.

    Source: the question kinds of MLLMU-Bench, arXiv:2410.22108; the sentences are ours.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2410.22108"

    def write(self, people: Sequence[Profile], order: Order, progress: Progress) -> Written:
        """Fill in the templates; see :func:`mllmu.data.questions.build`."""
        del progress
        return Written(filled_in(people, order))


def filled_in(people: Sequence[Profile], order: Order) -> list[Question]:
    """The questions of an order in the words of the templates."""
    return build(people, **order._asdict())


PLUGIN = Template
