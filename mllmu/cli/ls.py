"""``mllmu ls``: what there is to choose from, and every setting of it.

The lists are made by reading the files, not by importing them, so they come at once and without torch; only the page
of one plug-in imports it.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pkgutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from mllmu.cli.screen import results
from mllmu.core.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from mllmu.core.plugins import Plugin


def ls(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND", help="methods, metrics, tasks ...")] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]]", help="One of them.")] = None,
    *,
    markdown: Annotated[bool, typer.Option("--markdown", help="All of a kind as a markdown table.")] = False,
) -> None:
    """List the kinds of plug-ins, the plug-ins of a kind, or the settings of one."""
    from mllmu.core.plugins import KINDS, find

    console = results()
    if markdown:
        from mllmu.core.describe import table

        if kind is None or name is not None:
            raise PluginError("--markdown makes a table of one kind. Expected its name alone, e.g. methods.")
        _package_file(kind)
        console.out(table(kind), end="")
        return
    if kind is None:
        console.print(_listing({each: first_line(_package_file(each)) for each in KINDS}))
    elif name is None:
        console.print(_listing(summaries(kind)))
    else:
        _package_file(kind)
        for part in page(name, find(kind, name)):
            console.print(part)


def _package_file(kind: str) -> Path:
    """The ``__init__.py`` of the folder of a kind; an unknown kind raises PluginError."""
    from mllmu.core.plugins import KINDS

    spec = importlib.util.find_spec(KINDS[kind]) if kind in KINDS else None
    if spec is None or spec.origin is None:
        raise PluginError(f"no plug-in kind '{kind}'.{did_you_mean(kind, KINDS)} Kinds: {', '.join(KINDS)}.")
    return Path(spec.origin)


def summaries(kind: str) -> dict[str, str]:
    """The names of a kind, sorted, each with the first line of its docstring."""
    from mllmu.core.plugins import find

    folder = _package_file(kind).parent
    own = [m for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")]
    found = {m.name: first_line(folder / m.name / "__init__.py" if m.ispkg else folder / f"{m.name}.py") for m in own}
    for entry in entry_points(group=f"mllmu.{kind}"):
        found[entry.name] = find(kind, entry.name).summary()
    return dict(sorted(found.items()))


def first_line(path: Path) -> str:
    """First docstring line of the class that ``PLUGIN`` names in a file, or else of the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    shown: ast.ClassDef | ast.Module = tree
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PLUGIN":
            shown = classes.get(ast.unparse(node.value), tree)
    return (ast.get_docstring(shown) or "").partition("\n")[0]


def _listing(lines: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, summary in lines.items():
        table.add_row(Text(name), Text(summary))
    return table


def page(name: str, cls: type[Plugin]) -> list[Text | Table]:
    """Everything about one plug-in: docstring, source, and a table of the settings."""
    from mllmu.core.describe import bounds, default, type_name

    parts: list[Text | Table] = [Text(name, style="bold"), Text(inspect.cleandoc(cls.__doc__ or ""))]
    if cls.source:
        parts.append(Text(f"\nSource: {cls.source}"))
    if not cls.model_fields:
        return [*parts, Text("\nNo settings.")]
    table = Table(
        "setting", "type", "default", "bounds", "description", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for column in table.columns:
        column.overflow = "fold"
    for setting, field in cls.model_fields.items():
        cells = (setting, type_name(field.annotation), default(field), bounds(field), field.description or "")
        table.add_row(*map(Text, cells))
    return [*parts, Text(), table]
