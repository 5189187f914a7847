"""``mllmu tune``, ``trust``, ``layers`` and ``pool``: studies over many models of a run, or over several runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option

from mllmu.cli.run import Force, NoGate, Out, Overrides, RecipePath, each
from mllmu.cli.screen import number, say
from mllmu.core.errors import DataError
from mllmu.core.runfolder import RunFolder, write_atomic

if TYPE_CHECKING:
    from mllmu.studies.pool import PairedRow, PooledRow, PooledValue
    from mllmu.studies.tune import Trial

Trials = Annotated[int, Option(min=1, help="Settings to try per method, the recipe's own included.")]
Ratio = Annotated[str | None, Option(metavar="PERCENT", help="The forget ratio; by default the recipe's first.")]
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
) -> None:
    """Search the settings of every method, each with the same number of trials; write the best ones as a recipe.

    A trial is scored on questions that are kept apart for tuning (data.splits.selection): its distance to the retain
    model on forget people, plus its loss of utility (retain and celebrity) against the target. A stopped search
    continues.
    """
    for run in each(recipe, overrides, out):
        with run.at_work() as display:
            from mllmu.studies.tune import tune as search

            tried = search(run.recipe, run.folder, num_trials=trials, key=ratio, progress=display, force=force)
        say(trial_table(tried))
        say(f"best settings: {run.folder / RunFolder.TUNED_RECIPE}")


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


def trust(recipe: RecipePath, *, pool: Pool = 10, bits: Bits = 4, overrides: Overrides = None, out: Out = None) -> None:
    """Train a pool of models with and without the forget people, and measure which metrics tell the two groups apart.

    Unlearned models are also rounded to fewer bits and fine-tuned again on the forget people, which shows what was
    only hidden. The report of the same run folder then shows the result beside each metric. A pool of 10 costs 20
    fine-tunings.
    """
    for run in each(recipe, overrides, out):
        with run.at_work() as display:
            from mllmu.report.tables import trust_table
            from mllmu.studies.trust import trust as measure

            rows = measure(run.recipe, run.folder, pool=pool, bits=bits, progress=display)
        say(trust_table(rows)._replace(title="1 is best; an AUC of 0.5 is chance").terminal())
        say(f"figures: {run.folder / RunFolder.TRUST_FILE}; 'mllmu report {recipe}' shows them")


def layers(recipe: RecipePath, *, overrides: Overrides = None, out: Out = None, no_gate: NoGate = False) -> None:
    """Show in which layers of each model the forgotten facts can be read, before and after unlearning.

    Writes a page with four measures per layer and modality: logit lens, similarity to the target (CKA), activation
    patching, and a linear probe with its control. Models that are missing in the run folder are trained first.
    """
    for run in each(recipe, overrides, out):
        with run.at_work() as display:
            from mllmu.studies.layers.study import measure_layers

            page = measure_layers(run.recipe, run.folder, gate=not no_gate, progress=display)
        say(f"page: {page}")


def pool(
    runs: Annotated[
        list[Path],
        Argument(metavar="RUN...", help="Runs of one recipe with different seeds, or files written by --scores."),
    ],
    *,
    ratio: Ratio = None,
    against: Annotated[
        str | None, Option(metavar="METHOD", help="Compare all others with this one; by default with the nearest.")
    ] = None,
    bound: Annotated[
        float, Option(min=0, metavar="POINTS", help="Differences below count as none; choose it before you look.")
    ] = 5.0,
    scores: Annotated[
        Path | None, Option(metavar="FILE", help="Also write the raw scores as CSV: 'mllmu pool FILE' says the same.")
    ] = None,
    out: Annotated[Path | None, Option(metavar="FILE", help="Also write the tables to this file, as Markdown.")] = None,
) -> None:
    """Compare the methods over several runs of one recipe, with intervals over people and runs.

    The best method comes first: nearest to the retain model on the forget people, with the least loss of utility. Then
    every other method is compared with one, on the same people and runs, and with the bound below which two are equal.
    """
    from mllmu.studies.person_scores import load, person_scores, save
    from mllmu.studies.pool import pool as pooled

    raw = []
    for index, run in enumerate(runs, start=1):
        keys = RunFolder(run).evaluated_keys()
        if not run.is_file() and ratio is None and not keys:
            raise DataError(f"{run}: holds no evaluation. Expected a finished run, or a file of raw scores.")
        name = run.name if sum(other.name == run.name for other in runs) == 1 else f"{run.name}_{index}"
        raw += load(run) if run.is_file() else person_scores(run, ratio or keys[0], name)
    if scores is not None:
        save(scores, raw)
    text = pool_text(*pooled(raw, against=against), bound / 100)
    say(text)
    if out is not None:
        write_atomic(out, text + "\n")


def pool_text(rows: Sequence[PooledRow], pairs: Sequence[PairedRow], bound: float) -> str:
    """Two Markdown tables per modality, in points of 100: value and, in brackets, the 95 % interval."""
    from mllmu.core.declared import MODALITY_LABELS
    from mllmu.core.describe import markdown_table

    def table(title: str, head: Sequence[str], lines: Sequence[Iterable[str]]) -> list[str]:
        return [f"**{title}**\n\n{markdown_table(head, lines, align_right=len(head) - 1)}"] if lines else []

    parts = []
    for modality, title in MODALITY_LABELS.items():
        head = ("model", "forget", "against retain_model", "verdict", "utility", "lost utility", "on the front")
        parts += table(title, head, [_pool_line(row, bound) for row in rows if row.modality == modality])
        minus = [pair for pair in pairs if pair.modality == modality]
        compared = ("method", "forget", "utility", "distance", "verdict")
        lines = [_pair_line(pair, bound) for pair in minus]
        parts += table(f"{title}, minus {minus[0].rival}" if minus else "", compared, lines)
    count = f"{rows[0].runs} run{'s' if rows[0].runs > 1 else ''}"
    note = (
        f"Points of 100 over {count}; in brackets the 95 % interval of a bootstrap over runs and their people. "
        "distance: |against retain_model| + lost utility, by which models are ordered. The verdict is on 'against "
        "retain_model' and on 'distance'; more, less: the interval leaves out 0; equal: the 90 % interval lies within "
        f"{100 * bound:g} points of 0 (two one-sided tests); open: neither."
    )
    return "\n".join([*parts, note])


def _pool_line(row: PooledRow, bound: float) -> Iterable[str]:
    front = "" if row.front is None else f"{100 * row.front:.0f} %"
    verdict = "" if row.surplus.low == row.surplus.high == 0 else row.surplus.verdict(bound)
    forget, surplus, *others = map(_points, (row.forget, row.surplus, row.utility, row.cost))
    return row.model, forget, surplus, verdict, *others, front


def _pair_line(pair: PairedRow, bound: float) -> Iterable[str]:
    return pair.model, *map(_points, (pair.forget, pair.utility, pair.distance)), pair.distance.verdict(bound)


def _points(value: PooledValue) -> str:
    span = "" if value.low is None or value.high is None else f" ({100 * value.low:.1f} to {100 * value.high:.1f})"
    return f"{100 * value.value:.1f}{span}"
