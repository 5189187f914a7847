"""Judges of factuality, one file each: a judge reads question, reference and reply, and gives 1 to 10 points.

A judge works on replies that are kept on disk and never on a model; see :mod:`mllmu.evaluation.judging`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from pydantic import Field

from mllmu.core.plugins import Plugin
from mllmu.core.records import Record
from mllmu.llm import Preview

LOWEST, HIGHEST = 1, 10


class Case(Record):
    """One reply to be judged. ``reference`` is the right answer as a sentence, ``value`` the fact in it."""

    sample_id: str
    question: str
    reference: str
    value: str
    reply: str


class Verdict(Record):
    """The points of one reply, 1 to 10; None means that no judgement came about, see ``reason``."""

    sample_id: str
    value: float | None = Field(ge=LOWEST, le=HIGHEST)
    reason: str = ""


class Session(ABC):
    """A judge at work."""

    @abstractmethod
    def judge(self, cases: Sequence[Case]) -> Iterator[Verdict]:
        """One verdict per case, in any order, each as soon as it is there."""

    def spent(self) -> dict[str, float]:
        """What the session has cost so far, as numbers that can be added up; empty if it costs nothing."""
        return {}

    def figures(self) -> dict[str, float]:
        """The latest figures for a progress line; none by default."""
        return {}


class Judge(Plugin):
    """Base of every judge.

    Settings:
        label: name of this judge in files and tables, to keep two settings of one judge apart; default: its file name.
    """

    version: ClassVar[int] = 1
    """Raised whenever the same replies would be judged otherwise."""
    about: ClassVar[str] = "1 to 10 points by a language model"
    """What the points are, and who gives them; printed with every table of them."""
    label: str = Field(
        "", pattern=r"^[A-Za-z0-9_-]{0,32}$", description="name in files and tables; default: the judge's"
    )

    @property
    def name(self) -> str:
        """The label, or the name of the judge's file."""
        return self.label or type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def session(self) -> AbstractContextManager[Session]:
        """Open whatever is needed to judge: a connection, a model, nothing."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the verdicts; two equal identities judge alike."""
        return {"judge": type(self).__name__, "version": self.version, **self.model_dump(mode="json")}

    def preview(self, cases: Sequence[Case], num_prompts: int) -> Preview:
        """What :meth:`Session.judge` would ask an endpoint about these cases; nothing by default."""
        del cases, num_prompts
        return Preview(0, 0, ())
