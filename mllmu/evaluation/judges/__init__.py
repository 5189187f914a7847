"""Judges of factuality, one file each: a judge reads question, reference and reply, and gives 1 to 10 points.

A judge works on replies that are kept on disk and never on a model; see :mod:`mllmu.evaluation.judging`.
"""

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mllmu.core.plugins import Plugin
from mllmu.core.records import Record
from mllmu.llm import Message, Preview, fence

LOWEST, HIGHEST = 1, 10
_POINTS = re.compile(r"\s*(\d{1,2})(?:\.0{1,9})?\s*(?:(?:/|out\s+of)\s*10(?:\.0)?|points?)?\s*\.?\s*", re.IGNORECASE)


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


class JudgeSession(NamedTuple):
    """A judge at work.

    Attributes:
        judge: yields one verdict per case, in any order, each as soon as it is there.
        spent: what the session has cost so far, as numbers that can be added up; empty if it costs nothing.
        figures: the latest figures for a progress line; none by default.
    """

    judge: Callable[[Sequence[Case]], Iterator[Verdict]]
    spent: Callable[[], dict[str, float]] = dict
    figures: Callable[[], dict[str, float]] = dict


class Judge(Plugin):
    """Base of every judge.

    Settings:
        label: name of this judge in files and tables, to keep two settings of one judge apart; default: its file name.
    """

    version: ClassVar[int] = 2
    """Raised whenever the same replies would be judged otherwise."""
    reads_rubric: ClassVar[bool] = True
    """Whether its verdicts depend on ``rubric.yaml``."""
    about: ClassVar[str] = "1 to 10 points by a language model"
    """What the points are, and who gives them; printed with every table of them."""
    label: str = Field("", pattern=r"^[A-Za-z0-9_-]{0,32}$")
    """name in files and tables; default: the judge's"""

    @property
    def name(self) -> str:
        """The label, or the judge's name; of a judge by a path, the name of its class."""
        return self.label or super().name.rpartition(":")[2]

    @abstractmethod
    def session(self) -> AbstractContextManager[JudgeSession]:
        """Open whatever is needed to judge: a connection, a model, nothing."""

    def identity(self) -> dict[str, Any]:
        """Everything that decides the verdicts; two equal identities judge alike."""
        settings = self.model_dump(mode="json", exclude=set(self.operational))
        words = {"rubric": rubric()["version"]} if self.reads_rubric else {}
        return {"judge": type(self).__name__, "version": self.version, **settings, **words}

    def preview(self, cases: Sequence[Case], num_prompts: int) -> Preview:
        """What :meth:`JudgeSession.judge` would ask an endpoint about these cases; nothing by default."""
        return Preview(0, 0, ())


class Rating(BaseModel):
    """What a model that judges must reply; asked for strictly, and read with the harmless deviations of real ones.

    Further fields and a missing reason do no harm, nor do capitals in the names of fields, and the points may be
    written 8, 8.0, "8", "8/10" or "8 out of 10". Points of another scale, and fractions, are no points.
    """

    model_config = ConfigDict(
        strict=True, json_schema_extra={"additionalProperties": False, "required": ["score", "reason"]}
    )

    score: int = Field(ge=LOWEST, le=HIGHEST)
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def _forgive(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        fields = {str(name).casefold(): value for name, value in given.items()}
        points = fields.get("score")
        if isinstance(points, (float, str)) and (plain := _POINTS.fullmatch(str(points))):
            fields["score"] = int(plain[1])
        return fields | {"reason": fields["reason"] or ""} if "reason" in fields else fields


@cache
def rubric() -> dict[str, Any]:
    """Read ``rubric.yaml`` once."""
    return dict(yaml.safe_load(files(__name__).joinpath("rubric.yaml").read_text(encoding="utf-8")))


def messages(case: Case) -> tuple[Message, ...]:
    """The prompt for one case; everything that others wrote stands fenced (see :func:`mllmu.llm.fence`)."""
    parts = {name: fence(name, getattr(case, name)) for name in ("question", "reference", "reply")}
    words = rubric()
    return (
        {"role": "system", "content": words["system"]},
        {"role": "user", "content": words["user"].format_map(parts)},
    )
