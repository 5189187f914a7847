"""``mllmu plan``: what a recipe needs on a device, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mllmu.cli.options import Overrides, RecipePath, each
from mllmu.cli.screen import results

if TYPE_CHECKING:
    from rich.table import Table

    from mllmu.preflight.plan.plan import RecipePlan


def plan(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    device: Annotated[str, typer.Option("--device", help="h100-80gb, a100-40gb, rtx4090, cpu, ...")] = "a100-40gb",
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Say what a recipe needs: parameters, memory, tokens, operations and time per stage; loads no weights."""
    for run in each(recipe, overrides, quiet=as_json):
        from mllmu.preflight.plan.plan import make_plan

        made = make_plan(run.recipe, device)
        if as_json:
            typer.echo(made.model_dump_json(indent=1))
        else:
            show(made)


def show(made: RecipePlan) -> None:
    """Print a plan."""
    console = results()
    for line in heading(made):
        console.print(line, soft_wrap=True)
    console.print(table(made))
    for line in ending(made):
        console.print(line, soft_wrap=True)


def heading(made: RecipePlan) -> list[str]:
    """What is planned."""
    how = [made.dtype, "packed" if made.packed else "not packed"]
    how += ["gradient checkpointing"] * made.gradient_checkpointing
    how += [f"{made.quantize} weights"] * bool(made.quantize)
    return [
        f"{made.recipe}: {made.model} ({made.family}) on {made.device} ({made.memory:g} GiB)",
        f"parameters {made.parameters:,} ({made.vision_parameters:,} of them see), trained {made.trainable:,} "
        f"({made.trainable / made.parameters:.2%}); {', '.join(how)}",
    ]


def table(made: RecipePlan) -> Table:
    """One row per stage."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("stage", no_wrap=True, min_width=len("finetune"))
    shown.add_column("what")
    for name in ("weights", "trained", "optimiser", "step", "cache", "peak GiB", "Mtokens", "PFLOP", "time", ""):
        shown.add_column(name, justify="right")
    for s in made.stages:
        memory = (s.weights, s.trained, s.optimiser, s.activations, s.cache + s.images, s.peak)
        work = (f"{s.tokens / 1e6:.1f}", f"{s.tflop / 1e3:.1f}", duration(s.hours))
        shown.add_row(s.stage, s.what, *(f"{value:.2f}" for value in memory), *work, "fits" if s.fits else "TOO MUCH")
    return shown


def ending(made: RecipePlan) -> list[str]:
    """The sum, the advice, the assumptions."""
    peak = max(stage.peak for stage in made.stages)
    verdict = "fits" if peak <= made.memory else "does not fit"
    lines = [f"peak {peak:.1f} of {made.memory:g} GiB: {verdict}; about {duration(made.hours)} in all"]
    return [*lines, *(f"change: {line}" for line in made.advice), *(f"assumed: {line}" for line in made.assumptions)]


def duration(hours: float) -> str:
    """Hours as a person would say them.

    >>> duration(0.001), duration(0.5), duration(30)
    ('4 s', '30 min', '30.0 h')
    """
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 1 else f"{hours:.1f} h"
