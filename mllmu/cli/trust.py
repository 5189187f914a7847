"""``mllmu trust``: which metrics can tell a model that knows the forgotten people from one that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mllmu.cli.options import Out, Overrides, RecipePath, each
from mllmu.cli.screen import progress, results
from mllmu.core.lock import held
from mllmu.core.runfolder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mllmu.report.inputs import TrustRow

Pool = Annotated[int, typer.Option("--pool", help="Models to train with the forget people, and as many without.")]
Bits = Annotated[int, typer.Option("--bits", min=2, max=8, help="Bits the weights of unlearned models are rounded to.")]


def trust(recipe: RecipePath, *, pool: Pool = 10, bits: Bits = 4, overrides: Overrides = None, out: Out = None) -> None:
    """Train a pool of models with and without the forget people, and see which metrics tell them apart.

    Unlearned models are also rounded to fewer bits and taught again, to see what only seemed forgotten. The report
    of the same run folder shows the figures beside each metric. Takes two trainings per member of the pool.
    """
    for run in each(recipe, overrides, out):
        with held(run.folder), progress() as shown:
            from mllmu.studies.trust import trust as measure

            rows = measure(run.recipe, run.folder, pool=pool, bits=bits, progress=shown)
        results().print(table(rows))
        results().print(
            f"figures: {run.folder / RunFolder.TRUST_FILE}; mllmu report {recipe} shows them", soft_wrap=True
        )


def table(rows: Sequence[TrustRow]) -> Table:
    """One line per metric, task and modality."""
    columns = ("metric", "task", "asked with", "AUC", "95 % interval", "rounded", "taught again", "trust")
    shown = Table(*columns, title="1 is best; an AUC of 0.5 is chance")
    for row in rows:
        interval = "-" if row.auc_low is None else f"{row.auc_low:.2f} to {row.auc_high:.2f}"
        modality = "image" if row.modality == "image_text" else "text"
        figures = [_figure(value) for value in (row.quantisation, row.relearning, row.trust)]
        shown.add_row(row.metric, row.task, modality, _figure(row.auc), interval, *figures)
    return shown


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
