"""Settings and plug-ins as text: types, defaults and bounds, and the plug-ins of a kind as a Markdown table."""

from __future__ import annotations

import inspect
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from mllmu.core.plugins import Plugin

_BOUNDS = (
    ("gt", ">"),
    ("ge", ">="),
    ("lt", "<"),
    ("le", "<="),
    ("min_length", "length >="),
    ("max_length", "length <="),
)
LABELLED = ("Made for", "Cost")
"""Beginnings of docstring paragraphs that have a column of their own; a colon ends the label."""
ENDS = (*LABELLED, "Published code")
"""Lines that end such a paragraph, besides an empty one."""


def table(kind: str) -> str:
    """All plug-ins of a kind: name, first docstring line, labelled paragraphs, settings of its own, source.

    Settings that the bases share (all methods have ``epochs``) are shown only where the default is another one. A
    column that would be empty is left out.
    """
    from mllmu.core.plugins import find, names

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


def type_name(annotation: Any) -> str:
    """A type as a user would write it.

    >>> type_name(Literal["a", "b"]), type_name(float | None), type_name(tuple[int, ...])
    ("'a' | 'b'", 'float | None', 'tuple[int, ...]')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_name, inner))
    if origin is Annotated:
        return type_name(inner[0])
    if annotation in (None, types.NoneType):
        return "None"
    if annotation is Ellipsis:
        return "..."
    name = getattr(origin or annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(type_name, inner))}]" if inner else name


def default(field: FieldInfo) -> str:
    """The default value as text, or ``required``."""
    return "required" if field.is_required() else repr(field.get_default(call_default_factory=True, validated_data={}))


def bounds(field: FieldInfo) -> str:
    """The limits of a setting as text, e.g. ``> 0, <= 1``; empty if any value of the type is allowed."""
    limits = [
        f"{sign} {value}"
        for limit in field.metadata
        for attribute, sign in _BOUNDS
        if (value := getattr(limit, attribute, None)) is not None
    ]
    patterns = [f"matches {limit.pattern}" for limit in field.metadata if getattr(limit, "pattern", None)]
    return ", ".join([*limits, *patterns])
