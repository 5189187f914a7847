"""What the commands that work on a recipe share: their arguments, and running the pipeline with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from mllmu.cli.failures import explanation, tell
from mllmu.cli.screen import progress, results
from mllmu.core.errors import MllmuError
from mllmu.core.lock import held
from mllmu.core.ranks import leads

if TYPE_CHECKING:
    from mllmu.config.recipe import Recipe

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


class Run(NamedTuple):
    """A recipe and its run folder; the name says which one of a grid it is, and is empty for a recipe alone."""

    name: str
    recipe: Recipe
    folder: Path


def each(
    path: Path, overrides: Sequence[str] | None = None, out: Path | None = None, *, quiet: bool = False
) -> Iterator[Run]:
    """The recipe of a file with its run folder, ``--out`` or ``runs/<name>``; all of a grid in folders below that.

    Every recipe is checked before the first one is given out. One of a grid is named on stdout when its turn comes,
    unless ``quiet``.
    """
    from mllmu.config.load import load_all

    for name, recipe in load_all(path, overrides or ()).items():
        if name and not quiet:
            typer.echo(f"{name}:")
        yield Run(name, recipe, (out or Path("runs") / recipe.name) / name)


def execute(
    path: Path, overrides: Sequence[str] | None, out: Path | None, *, force: bool, no_gate: bool, only: Stage | None
) -> list[Run]:
    """Run all stages, or ``only`` one; print the table if there is a new report, and where everything is.

    A recipe of a grid that fails does not keep the others from being run; a page links the reports of all.

    Returns:
        What was run.

    Raises:
        MllmuError: a recipe failed; those of a grid have told why by then.
    """
    if not leads():
        return _assist(path, overrides, out)
    done, failed = [], []
    for run in each(path, overrides, out):
        try:
            _execute(run, force=force, no_gate=no_gate, only=only)
            done.append(run)
        except Exception as error:
            if not run.name or explanation(error) is None:
                raise
            tell(error)
            failed.append(run.name)
        if run.name and only in {None, "report"}:
            typer.echo(f"all reports: {link_reports(run.folder.parent, run.recipe.name)}")
    if failed:
        raise MllmuError(f"failed: {', '.join(failed)}; the reasons are above. The same command goes on with them.")
    return done


def _execute(run: Run, *, force: bool, no_gate: bool, only: Stage | None) -> None:
    console = results()
    with held(run.folder), progress() as shown:
        # Only now: a wrong recipe, or a folder in use, is reported before the seconds it takes to import torch.
        from mllmu.pipeline.pipeline import Pipeline

        pipeline = Pipeline(run.recipe, run.folder, force=force, gate=not no_gate, progress=shown)
        report = pipeline.run(only)
    if report is not None:
        console.print(pipeline.terminal_table())
    label = "report" if report is not None else f"{only} done"
    console.print(f"{label}: {report or run.folder}", soft_wrap=True)


def _assist(path: Path, overrides: Sequence[str] | None, out: Path | None) -> list[Run]:
    """Help the leading one of several processes with the same recipes, without a word."""
    from mllmu.pipeline.pipeline import Pipeline

    done = list(each(path, overrides, out, quiet=True))
    for run in done:
        Pipeline(run.recipe, run.folder).run()
    return done


def link_reports(root: Path, title: str) -> Path:
    """Write the page of a grid: every report that is in a folder below ``root``, earlier ones too."""
    from mllmu.report.page import write_links

    found = sorted(page.parent.parent.name for page in root.glob("*/report/index.html"))
    return write_links(root, title, "One report per recipe of the grid.", {n: f"{n}/report/index.html" for n in found})
