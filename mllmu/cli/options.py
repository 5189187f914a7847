"""What the commands that work on a recipe share: their arguments, and running the pipeline with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mllmu.cli.screen import progress, results

if TYPE_CHECKING:
    from mllmu.recipe import Recipe

Stage = Literal["data", "finetune", "unlearn", "evaluate", "score", "report"]

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="The YAML file that describes the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. finetune.epochs=3. May be repeated."),
]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="The run folder.", show_default="runs/<name of the recipe>")
]
Force = Annotated[bool, typer.Option("--force", help="Redo finished work, also if the settings changed.")]
NoGate = Annotated[bool, typer.Option("--no-gate", help="Go on even if the target has not memorised the people.")]


def run_folder(recipe: Recipe, out: Path | None) -> Path:
    """The folder of a run: ``--out``, or ``runs/<name>``."""
    return out or Path("runs") / recipe.name


def execute(
    path: Path, overrides: Sequence[str] | None, out: Path | None, *, force: bool, no_gate: bool, only: Stage | None
) -> Path:
    """Run all stages, or ``only`` one; print the table if there is a new report, and where everything is.

    Returns:
        The run folder.
    """
    from mllmu.recipe import load

    recipe = load(path, overrides or ())
    folder = run_folder(recipe, out)
    # Only now: a wrong recipe is reported before the seconds it takes to import torch.
    from mllmu.pipeline import Pipeline

    with progress() as shown:
        pipeline = Pipeline(recipe, folder, force=force, gate=not no_gate, progress=shown)
        report = pipeline.run(only)
    console = results()
    if report is not None:
        console.print(pipeline.terminal_table())
    label = "report" if report is not None else f"{only} done"
    console.print(f"{label}: {report or folder}", soft_wrap=True)
    return folder
