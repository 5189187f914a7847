"""``mllmu doctor``: what a recipe would do, shown and checked before anything is trained."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mllmu.cli.failures import USER_ERROR, plain_line
from mllmu.cli.options import Out, Overrides, RecipePath, Run, each
from mllmu.cli.screen import progress, results
from mllmu.core.lock import held


def doctor(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    out: Out = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Turns and samples shown for each modality.")] = 2,
) -> None:
    """Show prompts, label masks, adapters and shots of a recipe, and check them; nothing is trained.

    Uses the data of the run folder, makes them there if the folder is named or exists, and otherwise in a temporary
    one. The base model is loaded. Leaves with exit code 2 if anything is a FAULT; a note is a deliberate deviation.
    """
    faults = sum(_examined(run, samples, keep=out is not None) for run in each(recipe, overrides, out))
    results().print(f"{faults} fault{'' if faults == 1 else 's'}")
    if faults:
        raise typer.Exit(USER_ERROR)


def _examined(run: Run, samples: int, *, keep: bool) -> int:
    """Show one recipe and its checks; return the number of faults."""
    from mllmu.preflight.doctor.examine import Examination, examine
    from mllmu.preflight.doctor.show import describe

    console = results()
    with tempfile.TemporaryDirectory(prefix="mllmu-doctor-") as temporary, progress() as told:
        folder = run.folder if keep or run.folder.exists() else Path(temporary) / "run"
        with nullcontext() if (folder / "data").is_dir() else held(folder):
            examination = Examination(run.recipe, folder, told)
        for line in describe(examination, samples):
            console.print(line, soft_wrap=True)
        console.print("Checks")
        faults = 0
        for check, level, text in examine(examination):
            faults += level == "FAULT"
            console.print(f"  {level:5} {check}: {plain_line(text)}", soft_wrap=True)
    return faults
