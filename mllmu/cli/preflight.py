"""``mllmu doctor`` and ``mllmu plan``: what a recipe would train and evaluate, and what that needs."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mllmu.cli.failures import USER_ERROR, plain_line
from mllmu.cli.run import Out, Overrides, RecipePath, RecipeRun, each
from mllmu.cli.screen import duration, number, progress, say
from mllmu.core.lock import held
from mllmu.core.runfolder import RunFolder

if TYPE_CHECKING:
    from mllmu.preflight.plan.plan import RecipePlan


def doctor(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    out: Out = None,
    samples: Annotated[int, typer.Option(min=0, help="Turns and samples to show per modality.")] = 2,
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


def _num_faults(run: RecipeRun, samples: int, *, keep: bool) -> int:
    """Show one recipe and its checks; return the number of faults."""
    from mllmu.pipeline.pipeline import Pipeline
    from mllmu.preflight.doctor.examine import Examination, describe, examine

    with tempfile.TemporaryDirectory(prefix="mllmu-doctor-") as temporary, progress() as display:
        folder = run.folder if keep or run.folder.exists() else Path(temporary) / "run"
        pipeline = Pipeline(run.recipe, folder, gate=False, progress=display)
        with nullcontext() if (folder / RunFolder.DATA).is_dir() else held(folder):
            pipeline.data()
        examination = Examination(pipeline)
        for line in describe(examination, samples):
            say(line)
        say("Checks")
        faults = 0
        for check, level, text in examine(examination):
            faults += level == "FAULT"
            say(f"  {level:5} {check}: {plain_line(text)}")
    return faults


def plan(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    device: Annotated[
        str, typer.Option(help="A device: here (this machine), h100-80gb, rtx4090, cpu ...")
    ] = "a100-40gb",
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Estimate what a recipe needs per stage: parameters, memory, tokens, operations, time; loads no weights."""
    for run in each(recipe, overrides, quiet=as_json):
        from mllmu.preflight.plan.plan import make_plan

        planned = make_plan(run.recipe, device)
        if as_json:
            typer.echo(planned.model_dump_json(indent=1))
        else:
            show(planned)


def show(planned: RecipePlan) -> None:
    """Print a plan: the model, one row per stage, the sum, advice and assumptions."""
    how = [planned.dtype, "packed" if planned.packed else "not packed"]
    how += ["gradient checkpointing"] * (planned.gradient_checkpointing is True)
    how += [f"{planned.quantize} weights"] * bool(planned.quantize)
    say(f"{planned.recipe}: {planned.model} ({planned.family}) on {planned.device} ({planned.memory:g} GiB)")
    say(
        f"parameters {planned.parameters:,}, of which {planned.vision_parameters:,} process images and "
        f"{planned.trainable:,} ({planned.trainable / planned.parameters:.2%}) are trained; {', '.join(how)}"
    )
    say(stage_table(planned))
    peak = max(stage.peak for stage in planned.stages)
    verdict = "fits" if peak <= planned.memory else "does not fit"
    say(f"peak {peak:.1f} of {planned.memory:g} GiB: {verdict}; about {duration(3600 * planned.hours)} in all")
    for line in planned.advice:
        say(f"change: {line}")
    for line in planned.assumptions:
        say(f"assumed: {line}")


def stage_table(planned: RecipePlan) -> Table:
    """One row per stage; memory in GiB."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True, min_width=len("finetune"))
    table.add_column("what")
    for name in ("weights", "trained", "optimiser", "step", "cache", "peak GiB", "Mtokens", "PFLOP", "time", ""):
        table.add_column(name, justify="right")
    for stage in planned.stages:
        cache = stage.cache + stage.images
        memory = (stage.weights, stage.trained, stage.optimiser, stage.activations, cache, stage.peak)
        work = (number(stage.tokens / 1e6, 1), number(stage.tflop / 1e3, 1), duration(3600 * stage.hours))
        table.add_row(stage.stage, stage.what, *map(number, memory), *work, "fits" if stage.fits else "TOO MUCH")
    return table
