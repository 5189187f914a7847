"""``mllmu data``: make the people, portraits and questions; look at them, or export them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mllmu.cli.options import Force, Out, Overrides, RecipePath, each, execute
from mllmu.cli.screen import results
from mllmu.core.errors import MllmuError, did_you_mean

FORMATS = ("mllmu-bench",)
NUM_PROMPTS = 1


def data(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    contact_sheet: Annotated[
        bool, typer.Option("--contact-sheet", help="Also draw all portraits on one page, contact_sheet.png.")
    ] = False,
    export: Annotated[
        str | None,
        typer.Option("--export", metavar="FORMAT", help="Also write the data set in another layout: mllmu-bench."),
    ] = None,
    export_dir: Annotated[
        Path | None, typer.Option("--export-dir", metavar="DIR", help="Where --export writes its files.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the first prompts and count the calls to endpoints; make nothing.")
    ] = False,
    out: Out = None,
    force: Force = False,
) -> None:
    """Make the people, their portraits and their questions."""
    _check_export(export, export_dir)
    if dry_run:
        show_calls(recipe, overrides or ())
        return
    from mllmu.data.contact_sheet import write_contact_sheet
    from mllmu.data.dataset import load
    from mllmu.data.published.export import export as export_parquet

    console = results()
    for run in execute(recipe, overrides, out, force=force, no_gate=False, only="data"):
        if contact_sheet:
            path = run.folder / "contact_sheet.png"
            write_contact_sheet(load(run.folder / "data"), path)
            console.print(f"contact sheet: {path}", soft_wrap=True)
        if export_dir is not None:
            place = export_dir / run.name
            rows = export_parquet(load(run.folder / "data"), place)
            console.print(f"exported: {place} ({sum(rows.values())} rows in {len(rows)} configs)", soft_wrap=True)


def show_calls(recipe: Path, overrides: Sequence[str]) -> None:
    """Print the first prompts that an endpoint would get, and how many calls there would be."""
    from mllmu.cli.judge import show_prompts
    from mllmu.data.preview import previews

    asked = [
        part for run in each(recipe, overrides) for part in previews(run.recipe.data, run.recipe.seed, NUM_PROMPTS)
    ]
    for part in asked:
        show_prompts(part.preview)
        known = "" if part.known else "; the people are not there yet, so their prompts cannot be shown"
        results().print(
            f"{part.part}: {part.preview.num_calls} calls to an endpoint, {part.preview.num_cached} of them already in "
            f"the cache; retries, repairs and what has to be written again come on top{known}",
            soft_wrap=True,
        )
    if not asked:
        results().print("no part of the data asks an endpoint")


def _check_export(export: str | None, export_dir: Path | None) -> None:
    """Fail before the work, not after it."""
    if export is not None and export not in FORMATS:
        known = ", ".join(FORMATS)
        raise MllmuError(f"--export: no format '{export}'.{did_you_mean(export, FORMATS)} Formats: {known}.")
    if (export is None) != (export_dir is None):
        raise MllmuError("--export and --export-dir belong together, e.g. --export mllmu-bench --export-dir exported.")
