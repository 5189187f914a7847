"""``mllmu doctor``: what a recipe would train and evaluate, shown and checked before anything is trained."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from mllmu.cli.failures import USER_ERROR, plain_line
from mllmu.cli.options import Out, Overrides, RecipePath, Run, each
from mllmu.cli.screen import progress, say
from mllmu.core.lock import held
from mllmu.core.runfolder import RunFolder


def doctor(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    out: Out = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Turns and samples to show per modality.")] = 2,
) -> None:
    """Show the prompts, label masks, adapters and few-shot examples of a recipe, and check them; trains nothing.

    Loads the base model. Uses the data of the run folder; missing data are made there if the folder exists or is
    given with --out, otherwise in a temporary folder. The exit code is 2 if a check is a FAULT; a note is a deviation
    that the recipe asks for.
    """
    faults = sum(_num_faults(run, samples, keep=out is not None) for run in each(recipe, overrides, out))
    say(f"{faults} fault{'' if faults == 1 else 's'}")
    if faults:
        raise typer.Exit(USER_ERROR)


def _num_faults(run: Run, samples: int, *, keep: bool) -> int:
    """Show one recipe and its checks; return the number of faults."""
    from mllmu.preflight.doctor.examine import Examination, examine
    from mllmu.preflight.doctor.show import describe

    with tempfile.TemporaryDirectory(prefix="mllmu-doctor-") as temporary, progress() as display:
        folder = run.folder if keep or run.folder.exists() else Path(temporary) / "run"
        with nullcontext() if (folder / RunFolder.DATA).is_dir() else held(folder):
            examination = Examination(run.recipe, folder, display)
        for line in describe(examination, samples):
            say(line)
        say("Checks")
        faults = 0
        for check, level, text in examine(examination):
            faults += level == "FAULT"
            say(f"  {level:5} {check}: {plain_line(text)}")
    return faults
