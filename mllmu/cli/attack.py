"""``mllmu attack``: try to get the forgotten facts back from all models of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.table import Table
from typer import Argument, Option

from mllmu.cli.run import RecipeRun
from mllmu.cli.screen import number, say
from mllmu.core.errors import DataError
from mllmu.core.runfolder import RunFolder, read_json

if TYPE_CHECKING:
    from mllmu.config.recipe import Recipe
    from mllmu.core.attacked import AttackResults

RunPath = Annotated[Path, Argument(metavar="RUN", help="The folder of a run whose models are made.")]
Names = Annotated[
    str | None,
    Option("--attacks", metavar="A,B", help="Attacks by name ('mllmu ls attacks'); default: the recipe's, or all."),
]
Budget = Annotated[
    Literal["small", "full"] | None, Option(help="Questions, tries and steps of each attack; default: the recipe's.")
]


def attack(run: RunPath, *, attacks: Names = None, budget: Budget = None) -> None:
    """Attack the target, the retain model and every unlearned model of a run with the same budget and seed.

    Prints how much of the target's score each attack brings back, and writes it into the report. What no attack brings
    back is no longer accessible under these attacks; that it is gone, none of them can show. A stopped command
    continues when it is repeated.
    """
    recipe = attacked_recipe(run, attacks, budget)
    with RecipeRun("", recipe, run).at_work() as display:
        from mllmu.core.attacked import AttackResults
        from mllmu.pipeline.attacks import attack_run
        from mllmu.pipeline.pipeline import Pipeline

        pipeline = Pipeline(recipe, run, progress=display)
        files = attack_run(pipeline.state)
        evaluated = all((file.parent / RunFolder.METRICS_FILE).is_file() for file in files)
        if evaluated:
            pipeline.report()
    for file in files:
        say(attack_table(AttackResults.model_validate(read_json(file, sealed=True))))
        say(f"figures: {file}")
    if evaluated:
        say(f"report: {run / RunFolder.REPORT / 'index.html'}")


def attacked_recipe(run: Path, names: str | None, budget: str | None) -> Recipe:
    """The recipe of a run with the attacks and the budget that are wanted.

    Raises:
        DataError: there is no run in the folder.
        RecipeError, PluginError: an attack is unknown.
    """
    from mllmu.config.load import load

    path = run / RunFolder.RECIPE
    if not path.is_file():
        raise DataError(f"{run}: no run in this folder (no {RunFolder.RECIPE}). Expected one made by 'mllmu run'.")
    changes = [] if budget is None else [f"evaluate.attack_budget={budget}"]
    if names is not None or not load(path).evaluate.attacks:
        changes.append(f"evaluate.attacks=[{names or 'all'}]")
    return load(path, changes)


def attack_table(results: AttackResults) -> Table:
    """Per model: what comes back in the worst case, and over the retain model."""
    table = Table("model", "no attack", "any asking", "over retain", "worst attack", "over retain", title="0 to 1")
    plain = {row.model: row.after for row in results.rows if row.attack == "plain"}
    worst = {(row.model, row.access): row for row in results.worst}
    for model, before in plain.items():
        asked, every = worst[model, "black box"], worst[model, "white box"]
        figures = (number(before), number(asked.any_hit), number(asked.any_excess))
        table.add_row(model, *figures, every.attack or "-", number(every.excess))
    return table
