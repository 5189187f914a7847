"""The words of the rubric, and the form of a rating."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from mllmu.evaluation.judges import HIGHEST, LOWEST, Case
from mllmu.llm import Message, fence


class Rating(BaseModel):
    """What a model that judges must reply."""

    model_config = ConfigDict(extra="forbid", strict=True)

    score: int = Field(ge=LOWEST, le=HIGHEST)
    reason: str


@cache
def rubric() -> dict[str, Any]:
    """Read ``rubric.yaml`` once."""
    text = files("mllmu.evaluation.judges").joinpath("rubric.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def messages(case: Case) -> tuple[Message, ...]:
    """The prompt for one case; everything that others wrote stands fenced (see :func:`mllmu.llm.fence`)."""
    parts = {name: fence(name, getattr(case, name)) for name in ("question", "reference", "reply")}
    words = rubric()
    return (
        {"role": "system", "content": words["system"]},
        {"role": "user", "content": words["user"].format_map(parts)},
    )
