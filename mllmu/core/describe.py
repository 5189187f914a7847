"""Settings as text, for ``mllmu ls``: types, defaults, bounds and meanings, and whole references as Markdown."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
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


class SettingText(NamedTuple):
    """One setting as text; ``default`` and ``example`` are YAML, empty where there is none.

    A description in the schema may end with an example: ``scale of the adapters; e.g. 32``.
    """

    key: str
    type: str
    default: str
    meaning: str
    example: str

    @property
    def facts(self) -> str:
        """Type, default and example in one line."""
        default = self.default if self.default in ("", "required") else f"default {self.default}"
        return "; ".join(filter(None, [self.type, default, self.example and f"e.g. {self.example}"]))


class SectionText(NamedTuple):
    """A section of settings by its dotted key, '' for the top level, with the settings directly in it."""

    key: str
    meaning: str
    settings: list[SettingText]


def sections(cls: type[BaseModel], key: str = "") -> Iterator[SectionText]:
    """A section and all sections inside it, in the order of the schema."""
    fields = {f"{key}.{name}".lstrip("."): field for name, field in cls.model_fields.items()}
    yield SectionText(key, _first_line(cls), [setting_text(path, field, cls) for path, field in fields.items()])
    for path, field in fields.items():
        inner = _section_of(field.annotation)
        if inner:
            yield from sections(inner, path)


def setting_text(key: str, field: FieldInfo, cls: type[BaseModel]) -> SettingText:
    """One setting of a class; a setting that repeats one of a base class with another default shares its meaning."""
    section = _section_of(field.annotation)
    name = key.rpartition(".")[2]
    bases = [
        base.model_fields[name] for base in cls.__mro__ if issubclass(base, BaseModel) and name in base.model_fields
    ]
    described = next((base.description for base in bases if base.description), _first_line(section) if section else "")
    limits = bounds(field)
    meaning, _, example = described.partition("; e.g. ")
    return SettingText(
        key, type_name(field.annotation) + (f", {limits}" if limits else ""), default(field), meaning, example
    )


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section a type is, or is if it is not None; plug-ins are no sections."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((option for option in options if type_name(option) == "section"), None)


def _first_line(cls: type[BaseModel]) -> str:
    return without_roles(inspect.cleandoc(cls.__doc__ or "")).partition("\n")[0].replace("``", "`")


def without_roles(text: str) -> str:
    """A docstring for people: references to code are the names that they lead to.

    >>> without_roles("see :func:`mllmu.core.replies.parse_choice` and :class:`Victim`")
    'see parse_choice and Victim'
    """
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text)


def markdown_table(head: Sequence[str], rows: Iterable[Iterable[str]], *, align_right: int = 0) -> str:
    """A Markdown table whose last ``align_right`` columns are aligned to the right.

    >>> print(markdown_table(["a", "b"], [["x|y", "1"]], align_right=1), end="")
    | a | b |
    | --- | ---: |
    | x\\|y | 1 |
    """
    rule = ["---"] * (len(head) - align_right) + ["---:"] * align_right
    lines = [head, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plugin_table(kind: str) -> str:
    """All plug-ins of a kind: name, first docstring line, labelled paragraphs, settings of its own, source.

    Settings that the bases share (all methods have ``epochs``) are shown only where the default is another one. A
    column that would be empty is left out.
    """
    from mllmu.core.plugins import find, names

    head = ["name", "what it does", *(label.lower() for label in LABELLED), "settings", "source"]
    rows = [_plugin_cells(name, find(kind, name)) for name in names(kind)]
    filled = [column for column in range(len(head)) if any(row[column] for row in rows)]
    return markdown_table([head[column] for column in filled], ([row[column] for column in filled] for row in rows))


def _plugin_cells(name: str, cls: type[Plugin]) -> list[str]:
    settings = ", ".join(f"`{setting} {default(cls.model_fields[setting])}`" for setting in own_settings(cls))
    source = f"[{cls.source.rpartition('/')[2]}]({cls.source})" if cls.source.startswith("https://") else cls.source
    labelled = [paragraph(inspect.cleandoc(cls.__doc__ or ""), label) for label in LABELLED]
    return [f"`{name}`", cls.summary(), *labelled, settings, source]


def own_settings(cls: type[Plugin]) -> list[str]:
    """Settings that no base of the class has with the same default."""
    bases = [base for base in cls.__mro__[1:] if issubclass(base, BaseModel)]
    return [
        name
        for name, field in cls.model_fields.items()
        if not any(name in base.model_fields and base.model_fields[name].default == field.default for base in bases)
    ]


def paragraph(text: str, label: str) -> str:
    r"""The labelled paragraph of a docstring, without the label; it ends at the next label or empty line.

    >>> paragraph("Doubles.\n\nCost of a step: 1 pass\non forget.\nMade for: text.", "Cost")
    '1 pass on forget.'
    """
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if not line.strip() or line.startswith(ENDS):
            inside = line.startswith(label)
        if inside:
            lines.append(line.partition(":")[2] if line.startswith(label) else line)
    return " ".join(" ".join(lines).split()).replace("``", "`")


def type_name(annotation: Any) -> str:
    """A type as a recipe's author would write it.

    >>> type_name(Literal["a", "b"]), type_name(float | None), type_name(tuple[int, ...]), type_name(dict[str, int])
    ("'a' | 'b'", 'float | null', 'list[int]', 'dict[str, int]')
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_name, inner))
    if origin is Annotated:
        return type_name(inner[0])
    if annotation in (None, types.NoneType):
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        named = annotation.model_config.get("extra") == "allow" and "name" in annotation.model_fields
        return "plug-in" if named else "section"
    inner = tuple(part for part in inner if part is not Ellipsis)
    name = "list" if origin is tuple else getattr(origin or annotation, "__name__", str(annotation)).lower()
    return f"{name}[{', '.join(map(type_name, inner))}]" if inner else name


def default(field: FieldInfo) -> str:
    """The default value as YAML, or ``required``; empty for a section, whose settings have defaults of their own."""
    if field.is_required():
        return "required"
    return (
        ""
        if _section_of(field.annotation)
        else yaml_value(field.get_default(call_default_factory=True, validated_data={}))
    )


def yaml_value(value: Any) -> str:
    """A value in the one-line notation of YAML; a plug-in without settings is its name.

    >>> yaml_value({"a": None, "b": ("x", 2e-05, True)}), yaml_value(""), yaml_value("003")
    ('{a: null, b: [x, 2e-05, true]}', "''", "'003'")
    """
    if isinstance(value, BaseModel):
        value = value.model_dump()
        value = value["name"] if list(value) == ["name"] else value
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {yaml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(yaml_value, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = str(value)
    with suppress(yaml.YAMLError):
        if not isinstance(value, str) or yaml.safe_load(f"[{text}]") == [text]:
            return text
    return "'" + text.replace("'", "''") + "'"


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
