"""``python -m tools.generate_docs``: write the reference pages that follow from the code.

The pages are, in ``docs/reference``, ``recipe.md`` (every setting of a recipe), ``commands.md`` (the help of every
command) and ``plugins.md`` (every plug-in of every kind). ``tests/unit/test_docs.py`` compares them with what this
module makes today.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from mllmu.cli.app import app
from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.describe import SettingText, markdown_table, plugin_table, sections, setting_text, without_roles
from mllmu.models.families._chat import ChatFamily

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
HEADER = "<!-- Written by `python -m tools.generate_docs`; do not edit. -->\n"
REFERENCE = """# Recipe settings

Every setting of a recipe, one table per section. A recipe is one YAML file, of which only `name` is required.
`--set data.splits.holdout=4` changes one setting on the command line; `mllmu validate RECIPE --show` prints a recipe
with all defaults filled in.

A plug-in is given by its name, or as a mapping with its settings beside the name, e.g. `{name: npo, beta: 0.4}`;
`mllmu ls methods npo` prints the settings of one. A `grid` at the top level, e.g. `grid: {seed: [0, 1]}`, makes one
recipe per combination of its values.

`mllmu ls settings` prints the same in a terminal, `mllmu ls settings finetune` one section.
"""
PLUGIN_SETTINGS = """## Plug-ins

The settings beside the name of a plug-in. A setting without a plug-in's name belongs to all plug-ins of the kind;
`npo.beta` belongs to `npo` alone, or has a default of its own there.
"""


def commands() -> str:
    """The help of every command as Markdown."""
    from typer.cli import get_docs_for_click

    group: Any = typer.main.get_command(app)
    text = get_docs_for_click(obj=group, ctx=typer.Context(group, info_name="mllmu"), name="mllmu")
    listed = {**group.commands, **group.commands["data"].commands}
    for name, command in listed.items():  # the list of commands cuts their lines; here is room for all of it
        cut, whole = command.get_short_help_str(), command.get_short_help_str(limit=1000)
        text = text.replace(f"* `{name}`: {cut}\n", f"* `{name}`: {whole}\n")
    return f"{HEADER}# Command line\n{text.partition(chr(10))[2].rstrip()}\n"


def recipe() -> str:
    """Every setting of a recipe: one table per section, then the settings of all plug-ins, one table per kind."""
    parts = [REFERENCE]
    for section_text in sections(Recipe):
        table = settings_table(section_text.settings)
        parts.append(f"## {section_text.key or 'Top level'}\n\n{section_text.meaning}\n\n{table}")
    parts.append(PLUGIN_SETTINGS)
    parts += [
        f"### {kind}\n\n{settings_table(settings)}" for kind in plugins.KINDS if (settings := plugin_settings(kind))
    ]
    return HEADER + "\n".join(parts)


def settings_table(settings: Iterable[SettingText]) -> str:
    """Settings as a Markdown table."""
    cells = [
        [f"`{s.key}`", s.type, s.default and f"`{s.default}`", s.meaning, s.example and f"`{s.example}`"]
        for s in settings
    ]
    return markdown_table(("setting", "type", "default", "meaning", "example"), cells)


def plugin_settings(kind: str) -> list[SettingText]:
    """The settings of all plug-ins of a kind: those that all share first, then ``name.setting`` of each plug-in.

    A plug-in's own table has no shared setting, unless the default is another one.
    """
    classes = {name: plugins.find(kind, name) for name in plugins.names(kind)}
    bases = [cls.__mro__ for cls in classes.values()]
    shared: Any = next(base for base in bases[0] if all(base in mro for mro in bases))
    settings = [setting_text(name, field, shared) for name, field in shared.model_fields.items()]
    for name, cls in classes.items():
        inherited = {key: field.default for key, field in shared.model_fields.items()}
        own = [
            key
            for key, field in cls.model_fields.items()
            if inherited.get(key, ...) != field.default or key not in inherited
        ]
        settings += [setting_text(f"{name}.{key}", cls.model_fields[key], cls) for key in own]
    return settings


def plugin_tables() -> str:
    """One table for every kind of plug-in, with what the package of the kind says about itself."""
    intro = (
        "Every plug-in is one file, and the name of the file is its name in a recipe. `mllmu ls KIND NAME` prints the\n"
        "formula and all settings of one plug-in, `mllmu ls KIND --markdown` a table of this page.\n"
    )
    return "\n".join([f"{HEADER}# Plug-ins\n", intro, *map(section, plugins.KINDS)])


def section(kind: str) -> str:
    """The heading, the purpose and the table of one kind."""
    purpose = without_roles(inspect.getdoc(import_module(plugins.KINDS[kind])) or "").partition("\n")[0]
    more = f"\n{family_table()}" if kind == "families" else ""
    return f"## {kind.capitalize()}\n\n{purpose}\n\n{plugin_table(kind)}{more}"


def family_table() -> str:
    """What each model family declares: model types, prompts, image settings, shared prefixes, needs."""
    head = "| family | model types | prompt | image settings | shared prefix | needs |\n"
    return f"{head}{'| --- ' * 6}|\n{''.join(map(family_row, plugins.names('families')))}"


def family_row(name: str) -> str:
    """One row of :func:`family_table`."""
    cls: Any = plugins.find("families", name)
    cells = (
        f"`{name}`",
        ", ".join(cls.model_types) or "any other",
        "chat template" if issubclass(cls, ChatFamily) else "own prompt",
        ", ".join(f"{key}: {str(value).lower()}" for key, value in cls.image_settings.items()) or "as stored",
        "no" if not cls.shares_prefix else "replies" if cls.looks_ahead == "prompt" else "yes",
        "an image in every prompt" if cls.needs_image else "",
    )
    return f"| {' | '.join(cells)} |\n"


PAGES = {"recipe.md": recipe, "commands.md": commands, "plugins.md": plugin_tables}
"""The generated pages of ``docs/reference`` with the functions that make their text."""


def main() -> None:
    """Write every page and name the ones that changed."""
    for name, make in PAGES.items():
        page, text = FOLDER / name, make()
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {page}\n")


if __name__ == "__main__":
    main()
