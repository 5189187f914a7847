"""``mllmu run``: a recipe from the first person to the report."""

from __future__ import annotations

from typing import Annotated

import typer

from mllmu.cli.options import Force, NoGate, Out, Overrides, RecipePath, Stage, execute


def run(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    only: Annotated[Stage | None, typer.Option("--only", help="Run this stage alone.")] = None,
    out: Out = None,
    force: Force = False,
    no_gate: NoGate = False,
) -> None:
    """Run a recipe: make the data, teach, unlearn, ask, score, report.

    Finished work is kept and skipped. At the end the table and the path of the report are printed.
    """
    execute(recipe, overrides, out, force=force, no_gate=no_gate, only=only)
