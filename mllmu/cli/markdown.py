"""The plug-ins of a kind as a markdown table, for the documentation."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from pydantic import BaseModel

from mllmu.cli.ls import default

if TYPE_CHECKING:
    from mllmu.plugins import Plugin

LABELLED = ("Made for", "Cost")
"""Beginnings of docstring paragraphs that have a column of their own; a colon ends the label."""
ENDS = (*LABELLED, "Published code")
"""Lines that end such a paragraph, besides an empty one."""


def table(kind: str) -> str:
    """All plug-ins of a kind: name, first docstring line, labelled paragraphs, settings of its own, source.

    Settings that the bases share (all methods have ``epochs``) are shown only where the default is another one. A
    column that would be empty is left out.
    """
    from mllmu.plugins import find, names

    head = ["name", "what it does", *(label.lower() for label in LABELLED), "settings", "source"]
    rows = [_cells(name, find(kind, name)) for name in names(kind)]
    shown = [place for place in range(len(head)) if any(row[place] for row in rows)]
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line[place] for place in shown) + " |\n" for line in lines)


def _cells(name: str, cls: type[Plugin]) -> list[str]:
    settings = ", ".join(f"`{setting} {default(cls.model_fields[setting])}`" for setting in own_settings(cls))
    source = f"[{cls.source.rpartition('/')[2]}]({cls.source})" if cls.source.startswith("https://") else cls.source
    labelled = [paragraph(inspect.cleandoc(cls.__doc__ or ""), label) for label in LABELLED]
    return [f"`{name}`", *(text.replace("|", "\\|") for text in (cls.summary(), *labelled, settings, source))]


def own_settings(cls: type[Plugin]) -> list[str]:
    """Settings that no base of the class has with the same default."""
    bases = [base for base in cls.__mro__[1:] if issubclass(base, BaseModel)]
    return [
        name
        for name, field in cls.model_fields.items()
        if not any(name in base.model_fields and base.model_fields[name].default == field.default for base in bases)
    ]


def paragraph(text: str, label: str) -> str:
    r"""What a labelled paragraph of a docstring says; it ends at the next label or empty line.

    >>> paragraph("Doubles.\n\nCost of a step: 1 pass\non forget.\nMade for: text.", "Cost")
    '1 pass on forget.'
    """
    found: list[str] = []
    inside = False
    for line in text.splitlines():
        if not line.strip() or line.startswith(ENDS):
            inside = line.startswith(label)
        if inside:
            found.append(line.partition(":")[2] if line.startswith(label) else line)
    return " ".join(" ".join(found).split()).replace("``", "`")
