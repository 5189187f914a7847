"""``mllmu tune``, ``trust``, ``layers``, ``pool`` and ``board``: studies over many models or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from typer import Argument, Option, echo

from mllmu.cli.run import Force, NoCheck, NoGate, Out, Overrides, RecipePath, RecipeRun, each, folder_named
from mllmu.cli.screen import number, say
from mllmu.core.lock import claim
from mllmu.core.runfolder import RunFolder, write_atomic

if TYPE_CHECKING:
    from mllmu.studies.board import BoardSetup
    from mllmu.studies.tune import Trial

Trials = Annotated[int, Option(min=1, help="Settings to try per method, the recipe's own included.")]
Ratio = Annotated[str | None, Option(metavar="PERCENT", help="The forget ratio; by default the recipe's first.")]
Against = Annotated[
    str | None, Option(metavar="METHOD", help="Compare all others with this one; by default with the nearest.")
]
Bound = Annotated[
    float, Option(min=0, metavar="POINTS", help="Differences below count as none; choose it before you look.")
]
Pool = Annotated[int, Option(help="Models to train with the forget people, and as many without.")]
Bits = Annotated[int, Option(min=2, max=8, help="Bits that the weights are rounded to.")]


def tune(
    recipe: RecipePath,
    *,
    trials: Trials = 12,
    ratio: Ratio = None,
    overrides: Overrides = None,
    out: Out = None,
    force: Force = False,
    no_check: NoCheck = False,
) -> None:
    """Search the settings of every method, each with the same number of trials; write the best ones as a recipe.

    A trial is scored on questions that are kept apart for tuning (data.splits.selection): its distance to the retain
    model on forget people, plus its loss of utility (retain and celebrity) against the target. A stopped search
    continues.
    """
    for run in each(recipe, overrides, out):
        _look(run)
        with run.at_work() as display:
            from mllmu.preflight.doctor.first import check_first
            from mllmu.studies.tune import tune as search

            check = None if no_check else check_first
            how: dict[str, Any] = {"num_trials": trials, "key": ratio, "force": force}
            tried = search(run.recipe, run.folder, **how, check=check, progress=display)
        say(trial_table(tried))
        say(f"best settings: {run.folder / RunFolder.TUNED_RECIPE}")


def _look(run: RecipeRun) -> None:
    """Raise FaultsError before any work if files, folders, extras or keys that the recipe names are missing."""
    from mllmu.preflight.ahead import look_ahead

    look_ahead(run.recipe, run.folder, run.missing, say=echo, estimate=False)


def trial_table(trials: Sequence[Trial]) -> Table:
    """The best setting of every method and the recipe's own, the best method first."""
    table = Table("method", "trial", "gap", "loss", "sum", "seconds", "settings", title="lower is better")
    entries: dict[str, list[Trial]] = {}
    for trial in trials:
        entries.setdefault(f"{trial.method} {trial.settings.get('modality', '')}", []).append(trial)
    for rows in sorted(entries.values(), key=lambda rows: rows[0].objective):
        for trial in (row for index, row in enumerate(rows) if index == 0 or row.number == 0):
            figures = (number(value, 3) for value in (trial.gap, trial.loss, trial.objective))
            settings = ", ".join(f"{key} {value}" for key, value in trial.settings.items())
            table.add_row(trial.method, str(trial.number or "recipe"), *figures, f"{trial.seconds:.0f}", settings)
    return table


def trust(
    recipe: RecipePath,
    *,
    pool: Pool = 10,
    bits: Bits = 4,
    overrides: Overrides = None,
    out: Out = None,
    no_check: NoCheck = False,
) -> None:
    """Train a pool of models with and without the forget people, and measure which metrics tell the two groups apart.

    Unlearned models are also rounded to fewer bits and fine-tuned again on the forget people, which shows what was
    only hidden. The report of the same run folder then shows the result beside each metric. A pool of 10 costs 20
    fine-tunings.
    """
    for run in each(recipe, overrides, out):
        _look(run)
        with run.at_work() as display:
            from mllmu.preflight.doctor.first import check_first
            from mllmu.report.tables import trust_table
            from mllmu.studies.trust import trust as measure

            check = None if no_check else check_first
            rows = measure(run.recipe, run.folder, pool=pool, bits=bits, check=check, progress=display)
        say(trust_table(rows)._replace(title="1 is best; an AUC of 0.5 is chance").terminal())
        say(f"figures: {run.folder / RunFolder.TRUST_FILE}; 'mllmu report {recipe}' shows them")


def layers(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    out: Out = None,
    no_gate: NoGate = False,
    no_check: NoCheck = False,
) -> None:
    """Show in which layers of each model the forgotten facts can be read, before and after unlearning.

    Writes a page with four measures per layer and modality: logit lens, similarity to the target (CKA), activation
    patching, and a linear probe with its control. Models that are missing in the run folder are trained first.
    """
    for run in each(recipe, overrides, out):
        _look(run)
        with run.at_work() as display:
            from mllmu.preflight.doctor.first import check_first
            from mllmu.studies.layers.study import measure_layers

            check = None if no_check else check_first
            page = measure_layers(run.recipe, run.folder, gate=not no_gate, check=check, progress=display)
        say(f"page: {page}")


def pool(
    runs: Annotated[
        list[Path],
        Argument(
            metavar="RUN...", help="Runs of one recipe with different seeds, a grid of them, or files by --scores."
        ),
    ],
    *,
    ratio: Annotated[str | None, Option(metavar="PERCENT", help="The forget ratio; by default the smallest.")] = None,
    against: Against = None,
    bound: Bound = 5.0,
    task: Annotated[
        list[str] | None, Option(metavar="TASK", help="Only the scores of a task, e.g. option_text. Repeatable.")
    ] = None,
    scores: Annotated[
        Path | None, Option(metavar="FILE", help="Also write the raw scores as CSV: 'mllmu pool FILE' says the same.")
    ] = None,
    out: Annotated[Path | None, Option(metavar="FILE", help="Also write the tables to this file, as Markdown.")] = None,
) -> None:
    """Compare the methods over several runs of one recipe, with intervals over people and runs.

    The best method comes first: nearest to the retain model on the forget people, with the least loss of utility. Then
    every other method is compared with one, on the same people and runs, and with the bound below which two are equal.
    Of runs that differ in 'seeds' it says how much of the variance comes from people, teaching, unlearning and
    evaluation, and where one more run would help most.
    """
    from mllmu.studies.board import pooled_setup
    from mllmu.studies.person_scores import save
    from mllmu.studies.pool_text import pool_text

    setup = pooled_setup(runs, ratio=ratio, against=against, tasks=task or ())
    if scores is not None:
        save(scores, setup.scores)
    text = "\n\n".join(filter(None, [pool_text(setup.rows, setup.pairs, bound / 100, setup.ratio), setup.note]))
    if any(run.seeds for run in setup.runs):
        text += f"\n\n{seeds_of(setup)}"
    say(text)
    if out is not None:
        write_atomic(out, text + "\n")


def seeds_of(setup: BoardSetup) -> str:
    """How much of the variance comes from people and each stage, for runs with seeds of their own for single stages."""
    from mllmu.pipeline.record import seconds_by_stage
    from mllmu.studies.seed_variance import RunSeeds, Stage, seed_text, seed_variances

    found = seed_variances(setup.scores, {run.name: RunSeeds(*run.all_seeds, run.prescribed) for run in setup.runs})
    spent = [seconds_by_stage(run.folder) for run in setup.runs]
    mean = {name: sum(each[name] for each in spent) / len(spent) for name in spent[0]}
    seconds: dict[Stage, float] = {"evaluate": mean["evaluate"]}
    seconds["unlearn"] = mean["unlearn"] + seconds["evaluate"]
    seconds["teach"] = mean["finetune"] + seconds["unlearn"]
    seconds["people"] = mean["data"] + seconds["teach"]
    return seed_text(found, seconds)


def board(
    runs: Annotated[
        list[Path],
        Argument(
            metavar="RUN...",
            help="Run folders, grids, files of raw scores (CSV), or results that others submit (JSON).",
        ),
    ],
    *,
    ratio: Annotated[str | None, Option(metavar="PERCENT", help="One forget ratio; by default all.")] = None,
    against: Against = None,
    bound: Bound = 5.0,
    out: Annotated[Path, Option(metavar="DIR", help="Folder of the page and its files.", parser=folder_named)] = Path(
        "board"
    ),
) -> None:
    """Put many runs on one page: ratios, models and settings beside each other, seeds as intervals, with ranks.

    Runs that differ in the seed alone are pooled; others stand beside each other, named by the settings that differ.
    DIR holds index.html, board.csv, board.md, and results/ with the raw scores that anyone can recompute the page from.
    """
    from mllmu.studies.board import board_setups
    from mllmu.studies.board_page import write_board

    found = board_setups(runs, ratio=ratio, against=against)
    claim(out)
    say(f"board: {write_board(out, 'Board', found, bound=bound / 100)}")
