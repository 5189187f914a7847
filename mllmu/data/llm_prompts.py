"""The words that the data factory says to a model, from ``llm_prompts.yaml``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def prompts(part: str) -> dict[str, Any]:
    """The prompts of a part, ``people`` or ``questions``, with their version; read once."""
    text = files("mllmu.data").joinpath("llm_prompts.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)[part]
    return loaded
