"""``mllmu ls``: every plug-in, every setting, every packaged recipe and every run.

The lists are made by reading the files, not by importing them, so they appear at once and without torch; only the page
of one plug-in imports it.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from mllmu.cli.runs import runs_table
from mllmu.cli.screen import results, say
from mllmu.core.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from mllmu.core.describe import SectionText
    from mllmu.core.plugins import Plugin

SETTINGS = "settings"
RECIPES, RUNS = "recipes", "runs"
ROOT = Path(__file__).parents[2]


def ls(
    kind: Annotated[
        str | None,
        Argument(metavar="KIND", help="A kind of plug-in, e.g. methods or metrics; or settings, recipes or runs."),
    ] = None,
    name: Annotated[
        str | None, Argument(metavar="NAME", help="A plug-in, a section of a recipe, or a folder of runs.")
    ] = None,
    *,
    markdown: Annotated[bool, Option("--markdown", help="All plug-ins of a kind as a Markdown table.")] = False,
) -> None:
    """List the kinds of plug-ins, the plug-ins of a kind, settings of a plug-in or of a recipe, recipes, and runs.

    mllmu ls methods; mllmu ls methods npo; mllmu ls settings; mllmu ls settings finetune; mllmu ls recipes; mllmu ls
    runs.
    """
    from mllmu.config import packaged
    from mllmu.core.describe import plugin_table
    from mllmu.core.plugins import KINDS, find, names

    others = {
        SETTINGS: "Every setting of a recipe, by section.",
        RECIPES: "Recipes that are run by name.",
        RUNS: "Runs in the folder 'runs', or in another one.",
    }
    kinds = {each: first_line(KINDS[each]) for each in KINDS} | others
    if kind is not None and kind not in kinds:
        raise PluginError(f"no plug-in kind '{kind}'.{did_you_mean(kind, kinds)} Kinds: {', '.join(kinds)}.")
    if markdown:
        if kind is None or kind in others or name is not None:
            raise PluginError("--markdown prints all plug-ins of one kind. Expected its name alone, e.g. methods.")
        results().out(plugin_table(kind), end="")
    elif kind is None:
        say(_listing(kinds))
    elif kind == SETTINGS:
        say("\n".join(recipe_page(name)))
    elif kind == RUNS:
        say(runs_table(Path(name or RUNS)))
    elif kind == RECIPES:
        found = packaged.recipes() if name is None else {name: packaged.recipe_file(Path(name))}
        say(_listing({each: packaged.first_comment(path) for each, path in found.items()}))
    elif name is None:
        modules = {each: f"{KINDS[kind]}.{each}" for each in names(kind)}
        say(_listing({each: first_line(module) or find(kind, each).summary() for each, module in modules.items()}))
    else:
        say("\n".join(page(name, find(kind, name))))


def first_line(module: str) -> str:
    """First docstring line of a package, or of a module's plug-in class: the one with a ``source``, or the last one.

    Empty for a module that is no file of this package.
    """
    stem = ROOT.joinpath(*module.split("."))
    path = next((path for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py") if path.is_file()), None)
    if path is None:
        return ""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    sourced = [node for node in public if "source" in re.findall(r"(?m)^    (\w+)(?::.*)? = ", ast.unparse(node))]
    described = tree if path.name == "__init__.py" else (sourced or public)[-1]
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
    from mllmu.core.describe import sections, without_roles

    yield f"{name}\n\n{without_roles(inspect.cleandoc(cls.__doc__ or ''))}\n"
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
