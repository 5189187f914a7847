"""``python -m tools.pretrain_smol``: train the vision part of the embedded model smol."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from mllmu.cli.failures import explained_errors
from mllmu.cli.screen import progress, say
from tools.pretrain_smol.pretrain import STAGES, OutOfTimeError, Plan, pretrain


def pretrain_smol(
    *,
    out: Annotated[
        Path, Option(metavar="DIR", help="Where everything is written; a stopped run goes on there.")
    ] = Path("runs/pretrain-smol"),
    minutes: Annotated[float | None, Option(help="Stop after so many minutes; the same command goes on.")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda ...")] = "auto",
    captions: Annotated[int, Option(help="Steps of stage 1: the projector on captions.")] = Plan().steps[0],
    instructions: Annotated[
        int, Option(help="Steps of stage 2: projector and adapter on instructions.")
    ] = Plan().steps[1],
    batch_size: Annotated[int, Option(help="Exercises per step.")] = Plan().batch_size,
    micro_batch_size: Annotated[
        int, Option(help="Exercises per pass: less takes less memory.")
    ] = Plan().micro_batch_size,
    general: Annotated[
        float,
        Option(
            min=0, max=0.9, help="Share of stage 2 that keeps the language model's own replies to general questions."
        ),
    ] = Plan().general,
) -> None:
    """Train projector and adapter of model.path: smol in two stages, after mllmu get smol; prints what was measured.

    DIR/model is then a model.path, and DIR/parts is what the package carries in mllmu/models/smol/weights.
    """
    plan = Plan(
        steps=(captions, instructions), batch_size=batch_size, micro_batch_size=micro_batch_size, general=general
    )
    with explained_errors(), progress() as shown:
        try:
            record = pretrain(plan, out, shown, device=device, minutes=minutes)
        except OutOfTimeError as stopped:
            say(f"{stopped}: {minutes:g} minutes are over. The same command goes on.")
            return
    for stage in STAGES:
        facts = record[stage]
        say(f"{stage}: {facts['steps']} steps, {facts['seconds_per_step']} s a step, "
            f"loss {facts['first_loss']} -> {facts['last_loss']} nats a token")  # fmt: skip
    for kind, before in record["exam"]["before"].items():
        say(f"exam {kind}: {before:.2f} -> {record['exam']['after'][kind]:.2f}")
    say(f"model.path: {out / 'model'}; for the package: cp {out / 'parts'}/* mllmu/models/smol/weights/")


app = typer.Typer(add_completion=False)
app.command()(pretrain_smol)

if __name__ == "__main__":
    app()
