"""``mllmu attack``: try to get the forgotten facts back from all models of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.table import Table
from typer import Argument, Option

from mllmu.cli.run import Force, RecipeRun
from mllmu.cli.screen import number, say
from mllmu.core.errors import DataError
from mllmu.core.runfolder import RunFolder, fingerprint_of, read_json

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


def attack(run: RunPath, *, attacks: Names = None, budget: Budget = None, force: Force = False) -> None:
    """Attack the target, the retain model and every unlearned model of a run with the same budget and seed.

    Prints how much of the target's score each attack brings back, and writes it into the report. What no attack brings
    back is no longer accessible under these attacks; that it is gone, none of them can show. Earlier attacks on the
    same models with the same budget stay beside those that are named. A stopped command continues when it is repeated.
    """
    recipe = attacked_recipe(run, attacks, budget)
    with RecipeRun("", recipe, run).at_work() as display:
        from mllmu.core.attacked import AttackResults
        from mllmu.pipeline.attacks import attack_run
        from mllmu.pipeline.pipeline import Pipeline

        pipeline = Pipeline(recipe, run, progress=display)
        pipeline.state.store.force = force
        files = attack_run(pipeline.state)
        evaluated = all((file.parent / RunFolder.METRICS_FILE).is_file() for file in files)
        if evaluated:
            pipeline.state.store.force = False
            pipeline.report()
    for file in files:
        say(attack_table(AttackResults.model_validate(read_json(file, sealed=True))))
        say(f"figures: {file}")
    if evaluated:
        say(f"report: {run / RunFolder.REPORT / 'index.html'}")


def attacked_recipe(run: Path, names: str | None, budget: str | None) -> Recipe:
    """The recipe of a run with the attacks and the budget that are wanted, behind the attacks that are kept.

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
    recipe = load(path, changes)
    wanted = [spec.model_dump(mode="json") for spec in recipe.evaluate.attacks]
    names_wanted = {spec["name"] for spec in wanted}
    kept = [spec for spec in earlier_attacks(run, recipe) if spec["name"] not in names_wanted]
    if kept and "all" not in names_wanted:
        changes.append(f"evaluate.attacks={json.dumps([*kept, *wanted])}")
    return load(path, changes)


def earlier_attacks(run: Path, recipe: Recipe) -> Sequence[dict[str, Any]]:
    """The attacks that have been tried on all models of a run as they are now, with the budget of a recipe."""
    from mllmu.core.attacked import AttackResults

    tried: list[Sequence[dict[str, Any]]] = []
    for key in RunFolder(run).evaluated_keys():
        content = read_json(run / RunFolder.evaluation(key) / RunFolder.ATTACKS_FILE, sealed=True)
        found = AttackResults.model_validate(content) if content else None
        if not found or found.budget != recipe.evaluate.attack_budget or not found.models:
            return ()
        if any(fingerprint_of(run / RunFolder.model_unit(key, name)) != made for name, made in found.models.items()):
            return ()
        tried.append(found.attacks or ())
    return tried[0] if tried and all(each == tried[0] for each in tried) else ()


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
