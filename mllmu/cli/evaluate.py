"""``mllmu evaluate``: the stage of a recipe, or the published evaluation of one saved model on parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mllmu.cli.options import Force, NoGate, Out, Overrides, execute
from mllmu.cli.screen import progress, results
from mllmu.core.errors import MllmuError, did_you_mean
from mllmu.core.lock import held
from mllmu.parallel.team import only_alone

if TYPE_CHECKING:
    from mllmu.config.recipe import ModelSection
    from mllmu.core.records import MetricResult, TaskName

SAVED = "A saved model"
SHOT_TASKS: tuple[TaskName, ...] = ("classification", "cloze")


def evaluate(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="The YAML file that describes the run.", show_default=False),
    ] = None,
    *,
    overrides: Overrides = None,
    out: Out = None,
    force: Force = False,
    no_gate: NoGate = False,
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Instead of a recipe: a folder of save_pretrained.", rich_help_panel=SAVED),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Parquet files in the published layout.", rich_help_panel=SAVED),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="How it is asked and scored: official.", rich_help_panel=SAVED)
    ] = None,
    forget_ratio: Annotated[
        int | None, typer.Option(min=1, max=99, help="People forgotten in percent: 5, 10 or 15.", rich_help_panel=SAVED)
    ] = None,
    shots: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=ID[,ID...]",
            help="People whose questions are the examples of a task, in the sets they belong to. May be repeated.",
            rich_help_panel=SAVED,
        ),
    ] = None,
    test_image: Annotated[
        int | None, typer.Option(min=0, help="Which image the test set shows; 0 by default.", rich_help_panel=SAVED)
    ] = None,
) -> None:
    """Put the questions to every model of a recipe; or to one saved model, as the published evaluator does.

    mllmu evaluate --model DIR --data PARQUET_ROOT --protocol official --forget-ratio 5 --shots classification=ID
    --shots cloze=ID,ID --test-image 0 --out DIR writes responses.jsonl and metrics.json.
    """
    given = {
        "--model": model,
        "--data": data,
        "--protocol": protocol,
        "--forget-ratio": forget_ratio,
        "--shots": shots,
        "--test-image": test_image,
    }
    used = [name for name, value in given.items() if value is not None]
    if recipe is not None:
        _check_recipe_alone(recipe, used)
        execute(recipe, overrides, out, force=force, no_gate=no_gate, only="evaluate")
        return
    only_alone("the evaluation of a saved model")
    _check_saved(given, used, out, no_gate=no_gate)
    examples, settings = parse_shots(shots or ()), model_section(str(model), overrides or ())
    from mllmu.pipeline.published import Plan, evaluate_published, model_at

    section, ref, root = model_at(str(model), settings)
    plan = Plan(
        model=section,
        ref=ref,
        root=root,
        data=Path(str(data)),
        ratio=int(forget_ratio or 0),
        shots=examples,
        test_image=test_image or 0,
    )
    with held(Path(str(out))), progress() as shown:
        numbers = evaluate_published(plan, Path(str(out)), shown, force=force)
    console = results()
    for line in table(numbers):
        console.print(line, soft_wrap=True)
    console.print(f"evaluate done: {out}", soft_wrap=True)


def _check_recipe_alone(recipe: Path, used: Sequence[str]) -> None:
    if used:
        raise MllmuError(
            f"evaluate {recipe}: got {', '.join(used)} too, which {'belong' if len(used) > 1 else 'belongs'} to the "
            "evaluation of a saved model. Give either a recipe (whose evaluate.protocol says how it is asked), or "
            "--model, --data, --forget-ratio and --out."
        )


def _check_saved(given: dict[str, Any], used: Sequence[str], out: Path | None, *, no_gate: bool) -> None:
    if not used:
        raise MllmuError("evaluate: expected a RECIPE, or --model DIR --data DIR --forget-ratio R --out DIR.")
    needed = {**{name: given[name] for name in ("--model", "--data", "--forget-ratio")}, "--out": out}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise MllmuError(
            f"evaluate: {', '.join(missing)} missing. A saved model is evaluated with --model DIR --data DIR "
            "--forget-ratio R --out DIR; leave out {0} to evaluate a recipe.".format(", ".join(used))
        )
    if given["--protocol"] not in (None, "official"):
        raise MllmuError(
            f"--protocol {given['--protocol']}: a saved model and parquet files are evaluated by the protocol "
            "'official' alone. For 'corrected' use a recipe with data.source: {name: mllmu_bench}."
        )
    if no_gate:
        raise MllmuError("--no-gate: there is no gate without a recipe; leave it out.")


def parse_shots(given: Sequence[str]) -> dict[TaskName, list[str]]:
    """``["cloze=003,017"]`` as ``{"cloze": ["003", "017"]}``."""
    shots: dict[TaskName, list[str]] = {}
    for text in given:
        name, _, listed = text.partition("=")
        ids = [part.strip() for part in listed.split(",") if part.strip()]
        task = next((known for known in SHOT_TASKS if known == name), None)
        if task is None or not ids:
            hint = did_you_mean(name, SHOT_TASKS) if task is None else ""
            raise MllmuError(f"--shots {text}: expected TASK=ID[,ID...] with a task of {', '.join(SHOT_TASKS)}.{hint}")
        shots.setdefault(task, []).extend(ids)
    return shots


def model_section(path: str, overrides: Sequence[str]) -> ModelSection:
    """The model's settings: the defaults, changed by ``--set model.dtype=float32`` and the like."""
    from mllmu.config.load import apply_override, parse

    raw: dict[str, Any] = {"name": "saved", "model": {"path": path}}
    for override in overrides:
        if not override.startswith("model."):
            raise MllmuError(f"--set {override}: without a recipe only settings of the model can be changed (model.*).")
        apply_override(raw, override)
    return parse(raw, where="--set").model


def table(numbers: Sequence[MetricResult]) -> list[str]:
    """The main scores of the four sets, with image / by name."""
    shown = ("accuracy_first_char", "cloze_contains", "rougeL", "garbled")
    known: dict[tuple[str, str], list[str]] = {}
    for result in numbers:
        if result.metric in shown and (result.metric != "garbled" or result.task == "generation"):
            value = "–" if result.value is None else f"{100 * result.value:.1f}"
            known.setdefault((result.split, result.metric), []).append(value)
    splits = list(dict.fromkeys(split for split, _ in known))
    head = "%, with image / by name".ljust(28) + "".join(split.rjust(16) for split in splits)
    rows = [
        name.ljust(28) + "".join(" / ".join(known.get((split, name), ["–"])).rjust(16) for split in splits)
        for name in shown
    ]
    return [head, *rows]
