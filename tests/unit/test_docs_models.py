"""The table of docs/how-to/models.md is what the plug-ins say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mllmu.core import plugins
from mllmu.models.families._chat import ChatFamily

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "models.md"


def row(name: str) -> str:
    cls: Any = plugins.find("families", name)
    types = ", ".join(cls.model_types) or "any other"
    asked = "chat template" if issubclass(cls, ChatFamily) else "own prompt"
    images = ", ".join(f"{key}: {str(value).lower()}" for key, value in cls.image_settings.items()) or "as stored"
    needs = "an image in every prompt" if cls.needs_image else ""
    shared = "no" if not cls.shares_prefix else "replies" if cls.looks_ahead == "prompt" else "yes"
    return f"| `{name}` | {types} | {asked} | {images} | {shared} | {needs} |"


@pytest.mark.parametrize("name", plugins.names("families"))
def test_a_family_has_its_row(name: str) -> None:
    assert row(name) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_table_has_no_other_rows() -> None:
    rows = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `") and "|" in line[3:]
    ]
    families = [line for line in rows if line.count("|") == 7]
    assert len(families) == len(plugins.names("families"))
