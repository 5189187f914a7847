"""``mllmu ls``: every plug-in and every setting.

The lists are made by reading the files, not by importing them, so they appear at once and without torch; only the page
of one plug-in imports it.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from mllmu.cli.screen import results, say
from mllmu.core.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from mllmu.core.describe import SectionText
    from mllmu.core.plugins import Plugin

SETTINGS = "settings"


def ls(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="A kind of plug-in, e.g. methods or metrics; or settings.")
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A plug-in, or a section of a recipe.")] = None,
    *,
    markdown: Annotated[bool, typer.Option("--markdown", help="All plug-ins of a kind as a Markdown table.")] = False,
) -> None:
    """List the kinds of plug-ins, the plug-ins of a kind, and the settings of a plug-in or of a recipe.

    mllmu ls methods; mllmu ls methods npo; mllmu ls settings; mllmu ls settings finetune.
    """
    from mllmu.core.plugins import KINDS, find

    if markdown:
        results().out(_markdown(kind, name), end="")
    elif kind is None:
        lines = {each: first_line(_package_file(each)) for each in KINDS}
        say(_listing(lines | {SETTINGS: "Every setting of a recipe, by section."}))
    elif kind == SETTINGS:
        say("\n".join(recipe_page(name)))
    elif name is None:
        say(_listing(summaries(kind)))
    else:
        _package_file(kind)
        say("\n".join(page(name, find(kind, name))))


def _markdown(kind: str | None, name: str | None) -> str:
    from mllmu.core.describe import plugin_table

    if kind is None or name is not None:
        raise PluginError("--markdown prints all plug-ins of one kind. Expected its name alone, e.g. methods.")
    _package_file(kind)
    return plugin_table(kind)


def _package_file(kind: str) -> Path:
    """The ``__init__.py`` of the folder of a kind; an unknown kind raises PluginError."""
    from mllmu.core.plugins import KINDS

    spec = importlib.util.find_spec(KINDS[kind]) if kind in KINDS else None
    if spec is None or spec.origin is None:
        kinds = (*KINDS, SETTINGS)
        raise PluginError(f"no plug-in kind '{kind}'.{did_you_mean(kind, kinds)} Kinds: {', '.join(kinds)}.")
    return Path(spec.origin)


def summaries(kind: str) -> dict[str, str]:
    """The names of a kind, sorted, each with the first line of its docstring."""
    from mllmu.core.plugins import find, names

    folder = _package_file(kind).parent
    files = {name: [folder / f"{name}.py", folder / name / "__init__.py"] for name in names(kind)}
    own = {name: next((path for path in paths if path.is_file()), None) for name, paths in files.items()}
    return {name: first_line(path) if path else find(kind, name).summary() for name, path in own.items()}


def first_line(path: Path) -> str:
    """First docstring line of the class that ``PLUGIN`` names in a file, or else of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    described: ast.ClassDef | ast.Module = tree
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PLUGIN":
            described = classes.get(ast.unparse(node.value), tree)
    return (ast.get_docstring(described) or "").partition("\n")[0]


def _listing(lines: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, summary in lines.items():
        table.add_row(Text(name), Text(summary))
    return table


def page(name: str, cls: type[Plugin]) -> Iterator[str]:
    """Everything about one plug-in: docstring, source and settings."""
    from mllmu.core.describe import sections

    yield f"{name}\n\n{inspect.cleandoc(cls.__doc__ or '')}\n"
    if cls.source:
        yield f"Source: {cls.source}\n"
    for section in sections(cls):
        yield from _settings(section)
    if not cls.model_fields:
        yield "No settings."


def recipe_page(wanted: str | None) -> Iterator[str]:
    """The settings of a recipe, or of one section of it with the sections inside."""
    from mllmu.config.recipe import Recipe
    from mllmu.core.describe import sections

    pages = {section.key: section for section in sections(Recipe)}
    if wanted and wanted not in pages:
        known = [key for key in pages if key]
        hint = did_you_mean(wanted, known)
        raise PluginError(f"settings: no section '{wanted}'.{hint} Sections: {', '.join(known)}.")
    for key, section in pages.items():
        if not wanted or f"{key}.".startswith(f"{wanted}."):
            yield f"{key or 'recipe'}: {section.meaning}"
            yield from _settings(section)
            yield ""


def _settings(section: SectionText) -> Iterator[str]:
    for setting in section.settings:
        yield f"  {setting.key}: {setting.facts}"
        if setting.meaning:
            yield f"      {setting.meaning}"
