"""``python -m tools.pretrain_tiny``: make the embedded tiny model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mllmu.cli.screen import progress, results
from mllmu.core.process import Progress
from tools.pretrain_tiny.pretrain import Plan, pretrain


def pretrain_tiny(
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the weights are written.")] = Path(
        "runs/pretrain-tiny"
    ),
) -> None:
    """Pre-train the tiny vision-language model that the package carries, from nothing, on the CPU: slow.

    The result can be used as model.path of a recipe.
    """
    with progress() as shown:
        listener = Listener(shown)
        pretrain(Plan(), out, listener)
        listener.close()
    results().print(f"weights: {out}", soft_wrap=True)


class Listener:
    """Shows the reports of pre-training: a bar per phase, and a note for each exam."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._phase = ""
        self._done = 0

    def __call__(self, phase: str, done: int, total: int, figures: dict[str, float]) -> None:
        if phase == "exam":
            marks = ", ".join(f"{name} {value:.3g}" for name, value in figures.items())
            self._shown.note(f"exam after step {done}: {marks}")
            return
        if phase != self._phase:
            self.close()
            self._phase, self._done = phase, 0
            self._shown.stage("pretrain-tiny", phase)
            self._shown.start(phase, total)
        self._shown.advance(done - self._done, **figures)
        self._done = done

    def close(self) -> None:
        """End the bar of the current phase, if any."""
        if self._phase:
            self._shown.finish()
            self._phase = ""


app = typer.Typer(add_completion=False)
app.command()(pretrain_tiny)

if __name__ == "__main__":
    app()
