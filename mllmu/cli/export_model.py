"""``mllmu export-model``: save a model of a run so that other tools can load it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllmu.cli.screen import say


def export_model(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="target, or a model of a forget ratio, e.g. forget_10/npo.")
    ],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for weights and processor.")],
    *,
    device: Annotated[str, typer.Option("--device", help="Device that merges the weights: cpu, cuda ...")] = "cpu",
) -> None:
    """Save a model with its adapters merged, for lmms-eval, vLLM or AutoModelForImageTextToText."""
    from mllmu.pipeline.export_model import export_model as export

    ref = export(run_folder, model, out, device=device)
    say(f"exported: {out}")
    if ref.system_prompt:
        say("This model also needs its system prompt, which is not part of the weights: see mllmu.json.")
