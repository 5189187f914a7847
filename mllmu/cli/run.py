"""``mllmu run``, ``validate``, one command per stage, and ``export-model``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, echo

from mllmu.cli.options import Force, NoGate, Out, Overrides, RecipePath, Stage, execute
from mllmu.cli.screen import say

STAGES: dict[Stage, str] = {
    "finetune": "Fine-tune the target on all people, and the retain model on all but the forget people.",
    "unlearn": "Unlearn the forget people from the target, once with each method of the recipe.",
    "score": "Score the responses with the metrics; loads no model if all responses exist.",
    "report": "Write the report and print its table.",
}


def run(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    only: Annotated[Stage | None, Option(help="Stop after this stage; missing earlier stages are run first.")] = None,
    out: Out = None,
    force: Force = False,
    no_gate: NoGate = False,
) -> None:
    """Run a recipe: make the data, fine-tune, unlearn, evaluate, score, report.

    Finished work is kept and skipped. At the end the table and the path of the report are printed.
    """
    execute(recipe, overrides, out, force=force, no_gate=no_gate, only=only)


def stage_command(stage: Stage) -> Callable[..., None]:
    """The command that runs one stage, after the earlier stages that are not finished."""

    def command(
        recipe: RecipePath,
        *,
        overrides: Overrides = None,
        out: Out = None,
        force: Force = False,
        no_gate: NoGate = False,
    ) -> None:
        execute(recipe, overrides, out, force=force, no_gate=no_gate, only=stage)

    command.__name__ = stage
    command.__doc__ = f"{STAGES[stage]}\n\nEarlier stages that are not finished are run first."
    return command


def validate(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    show: Annotated[bool, Option("--show", help="Also print the recipe with all defaults filled in.")] = False,
) -> None:
    """Check every setting of a recipe, including those of methods and metrics; run nothing."""
    from mllmu.config.load import dump, load_all

    recipes = load_all(recipe, overrides or ())
    echo("valid" if len(recipes) == 1 else f"valid: a grid of {len(recipes)} recipes: {', '.join(recipes)}")
    if show:
        echo("---\n".join(map(dump, recipes.values())), nl=False)


def export_model(
    run_folder: Annotated[Path, Argument(metavar="RUN", help="A run folder.")],
    model: Annotated[str, Argument(metavar="MODEL", help="target, or ratio and model, e.g. forget_10/npo.")],
    out: Annotated[Path, Argument(metavar="DIR", help="New folder for weights and processor.")],
    *,
    device: Annotated[str, Option(help="Device that merges the weights: cpu, cuda ...")] = "cpu",
) -> None:
    """Save a model with its adapters merged, for lmms-eval, vLLM or AutoModelForImageTextToText."""
    from mllmu.pipeline.export_model import export_model as export

    ref = export(run_folder, model, out, device=device)
    say(f"exported: {out}")
    if ref.system_prompt:
        say("This model also needs its system prompt, which is not part of the weights: see mllmu.json.")
