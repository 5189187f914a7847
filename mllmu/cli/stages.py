"""``mllmu finetune``, ``unlearn``, ``score`` and ``report``: one stage of a recipe each."""

from __future__ import annotations

from collections.abc import Callable

from mllmu.cli.options import Force, NoGate, Out, Overrides, RecipePath, Stage, execute

HELP: dict[Stage, str] = {
    "finetune": "Teach the people to the target model, and all but the forgotten ones to the retain model.",
    "unlearn": "Make the target forget, once with each method of the recipe.",
    "score": "Judge the kept replies with the metrics; no model is needed if all have replied.",
    "report": "Write the report and print its table.",
}


def stage_command(stage: Stage) -> Callable[..., None]:
    """The command that runs one stage; it makes what is missing of the earlier ones."""

    def command(
        recipe: RecipePath,
        *,
        overrides: Overrides = None,
        out: Out = None,
        force: Force = False,
        no_gate: NoGate = False,
    ) -> None:
        execute(recipe, overrides, out, force=force, no_gate=no_gate, only=stage)

    command.__doc__ = f"{HELP[stage]} Stages before it that are not finished run first."
    return command
