"""``mllmu tune``: search the settings of every method with one budget, without touching the reported questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mllmu.cli.options import Force, Out, Overrides, RecipePath, each
from mllmu.cli.screen import progress, results
from mllmu.core.lock import held
from mllmu.core.runfolder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mllmu.studies.tune import Trial

Trials = Annotated[int, typer.Option("--trials", min=1, help="Settings to try of each method, the recipe's own first.")]
Ratio = Annotated[
    str | None, typer.Option("--ratio", metavar="PERCENT", help="Forget ratio to tune at; default: the recipe's first.")
]


def tune(
    recipe: RecipePath,
    *,
    trials: Trials = 12,
    ratio: Ratio = None,
    overrides: Overrides = None,
    out: Out = None,
    force: Force = False,
) -> None:
    """Search each method's settings, all with the same number of trials, and write the best ones as a recipe.

    Judged by the questions kept apart for tuning (data.splits.selection): the distance to the retain model on
    forgotten people plus what is lost on the others. A search that was stopped goes on where it was.
    """
    for run in each(recipe, overrides, out):
        with held(run.folder), progress() as shown:
            from mllmu.studies.tune import tune as search

            found = search(run.recipe, run.folder, num_trials=trials, key=ratio, progress=shown, force=force)
        results().print(table(found))
        results().print(f"best settings: {run.folder / RunFolder.TUNED_RECIPE}", soft_wrap=True)


def table(trials: Sequence[Trial]) -> Table:
    """The recipe's own and the best setting of every method, the best method first."""
    shown = Table("method", "trial", "gap", "loss", "sum", "seconds", "settings", title="lower is better")
    best: dict[str, list[Trial]] = {}
    for trial in trials:
        best.setdefault(f"{trial.method} {trial.settings.get('modality', '')}", []).append(trial)
    for rows in sorted(best.values(), key=lambda rows: rows[0].objective):
        own = next(row for row in rows if row.number == 0)
        for row in dict.fromkeys((rows[0].number, own.number)):
            one = next(trial for trial in rows if trial.number == row)
            note = "recipe" if one.number == 0 else str(one.number)
            figures = (f"{one.gap:.3f}", f"{one.loss:.3f}", f"{one.objective:.3f}", f"{one.seconds:.0f}")
            shown.add_row(one.method, note, *figures, ", ".join(f"{k} {v}" for k, v in one.settings.items()))
    return shown
