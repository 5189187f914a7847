"""``mllmu export-model``: save a model of a run so that other tools can load it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllmu.cli.screen import results


def export_model(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="target, or ratio and model: forget_10/npo.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for weights and processor.")],
    *,
    device: Annotated[str, typer.Option("--device", help="Where the weights are merged: cpu, cuda ...")] = "cpu",
) -> None:
    """Save a model with its adapters merged, for lmms-eval, vLLM or AutoModelForImageTextToText."""
    from mllmu.pipeline.export_model import export_model as export

    ref = export(run_folder, model, out, device=device)
    console = results()
    console.print(f"exported: {out}", soft_wrap=True)
    if ref.system_prompt:
        console.print(
            "Its system prompt is a system prompt and not in the weights; it stands in mllmu.json.", soft_wrap=True
        )
