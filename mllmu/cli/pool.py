"""``mllmu pool``: one table from several runs of a recipe with other seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mllmu.cli.screen import results

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mllmu.studies.pool import PooledRow, Range

HEAD = ("model", "forget", "against retain_model", "utility", "lost utility", "on the front")
TITLES = {"image_text": "Asked with the image", "text": "Asked by name"}


def pool(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders of one recipe, with other seeds.")],
    *,
    ratio: Annotated[
        str | None, typer.Option("--ratio", metavar="PERCENT", help="Forget ratio; default: the first there is.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the table here too, as Markdown.")
    ] = None,
) -> None:
    """Put several runs together: where every method stands, with intervals over people and runs.

    Best first: nearest to the retain model on forgotten people, with the least utility lost.
    """
    from mllmu.core.errors import DataError
    from mllmu.core.runfolder import write_atomic
    from mllmu.studies.pool import pool as together

    found = sorted(path.name.removeprefix("forget_") for path in runs[0].glob("eval/forget_*"))
    if ratio is None and not found:
        raise DataError(f"{runs[0]}: holds no evaluation. Expected the folder of a finished run.")
    text = markdown(together(runs, ratio or found[0]))
    results().print(text, soft_wrap=True)
    if out is not None:
        write_atomic(out, text + "\n")


def markdown(rows: Iterable[PooledRow]) -> str:
    """Tables in points of 100: value and, in brackets, the 95 % interval."""
    rows = list(rows)
    parts = []
    for modality, title in TITLES.items():
        lines = [[row.model, *map(_range, (row.forget, row.surplus, row.utility, row.cost)), _share(row.front)]
                 for row in rows if row.modality == modality]  # fmt: skip
        if lines:
            head = ["| " + " | ".join(HEAD) + " |", "|---" + "|---:" * (len(HEAD) - 1) + "|"]
            parts.append("\n".join([f"**{title}**", "", *head, *("| " + " | ".join(line) + " |" for line in lines)]))
    count = f"{rows[0].runs} run{'s' if rows[0].runs > 1 else ''}"
    note = f"Points of 100 over {count}; in brackets the 95 % interval: runs, and people within every run, drawn anew."
    return "\n\n".join([*parts, note])


def _range(value: Range) -> str:
    return f"{100 * value.value:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _share(front: float | None) -> str:
    return "" if front is None else f"{100 * front:.0f} %"
