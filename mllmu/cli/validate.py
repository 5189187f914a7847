"""``mllmu validate``: check a recipe without running it."""

from __future__ import annotations

from typing import Annotated

import typer

from mllmu.cli.options import Overrides, RecipePath


def validate(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    show: Annotated[bool, typer.Option("--show", help="Also print the recipe with all defaults filled in.")] = False,
) -> None:
    """Check every setting of a recipe, those of methods and metrics included, and run nothing."""
    from mllmu.config.load import dump, load_all

    checked = load_all(recipe, overrides or ())
    typer.echo("valid" if len(checked) == 1 else f"valid: a grid of {len(checked)} recipes: {', '.join(checked)}")
    if show:
        typer.echo("---\n".join(map(dump, checked.values())), nl=False)
