"""``mllmu evaluate``: the stage of a recipe, or the published evaluation of one saved model on parquet files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from mllmu.cli.run import Force, NoCheck, NoGate, Out, Overrides, execute
from mllmu.cli.screen import progress, say
from mllmu.core.errors import MllmuError, did_you_mean
from mllmu.core.lock import held
from mllmu.parallel.team import only_alone

if TYPE_CHECKING:
    from mllmu.config.recipe import ModelSection
    from mllmu.core.records import MetricResult, Split, TaskName

OF_A_MODEL = ("model", "data", "protocol", "forget_ratio", "shots", "test_image", "processor", "batch_size")
"""Parameters of the evaluation of a saved model."""
REQUIRED = ("model", "data", "forget_ratio", "out")
SHOT_TASKS: tuple[TaskName, ...] = ("classification", "cloze")
SHOT_SETS: tuple[Split, ...] = ("forget", "test", "retain")
MOST_AT_ONCE = 100_000
SCORES = ("accuracy_first_char", "cloze_contains", "rougeL", "garbled")


def _option(meaning: str, **settings: Any) -> Any:
    return typer.Option(help=meaning, rich_help_panel="A saved model", **settings)


def evaluate(
    context: typer.Context,
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE", help="The YAML file that describes the run.", show_default=False),
    ] = None,
    *,
    overrides: Overrides = None,
    out: Out = None,
    force: Force = False,
    no_gate: NoGate = False,
    no_check: NoCheck = False,
    model: Annotated[str | None, _option("A folder of save_pretrained, in place of a recipe.", metavar="DIR")] = None,
    data: Annotated[Path | None, _option("Parquet files in the published layout.", metavar="DIR")] = None,
    protocol: Annotated[str | None, _option("How prompts are built and replies are scored: official.")] = None,
    forget_ratio: Annotated[int | None, _option("Forgotten people in percent: 5, 10 or 15.", min=1, max=99)] = None,
    shots: Annotated[
        list[str] | None,
        _option(
            "People whose questions are the examples of a task, in the sets they belong to or in one set. Repeatable.",
            metavar="[SET.]TASK=ID[,ID...]",
        ),
    ] = None,
    test_image: Annotated[
        str | None,
        _option(
            "Index of the image in the test set (0 by default), or a JSON file of indices by ID, or by task and ID."
        ),
    ] = None,
    processor: Annotated[str | None, _option("The processor, if none lies beside the model.", metavar="DIR")] = None,
    batch_size: Annotated[
        str | None,
        _option(
            "Prompts at once: 1 by default, as published; more, or auto: the same replies in float32, sooner.",
            metavar="N|auto",
        ),
    ] = None,
) -> None:
    """Collect the responses of every model of a recipe; or evaluate one saved model as the published evaluator does.

    mllmu evaluate --model DIR --data PARQUET_ROOT --protocol official --forget-ratio 5 --shots classification=ID
    --shots cloze=ID,ID --test-image 0 --out DIR writes responses.jsonl and metrics.json.
    """
    del protocol  # only one is possible, which is checked
    _check_options(context.params)
    if recipe is not None:
        execute(recipe, overrides, out, force=force, no_gate=no_gate, no_check=no_check, only="evaluate")
        return
    only_alone("the evaluation of a saved model")
    examples, settings = parse_shots(shots or ()), model_section(str(model), overrides or ())
    from mllmu.pipeline.published import SavedModel, evaluate_published, model_at

    section, ref, root = model_at(str(model), settings)
    saved = SavedModel(
        model=section,
        ref=ref,
        root=root,
        data=Path(str(data)),
        ratio=int(forget_ratio or 0),
        shots=examples,
        test_image=parse_test_image(test_image or "0"),
        processor=processor or "",
        batch_size=parse_batch_size(batch_size or "1"),
    )
    with held(Path(str(out))), progress() as display:
        results = evaluate_published(saved, Path(str(out)), display, force=force)
    say(table(results))
    say(f"evaluate done: {out}")


def _check_options(params: dict[str, Any]) -> None:
    """Either a recipe alone, or all options that a saved model needs."""
    needs = "--model DIR --data DIR --forget-ratio R --out DIR"
    used = [f"--{name.replace('_', '-')}" for name in OF_A_MODEL if params[name] not in (None, ())]
    missing = [f"--{name.replace('_', '-')}" for name in REQUIRED if params[name] is None]
    if params["recipe"] is not None:
        if used:
            raise MllmuError(
                f"evaluate {params['recipe']}: got {', '.join(used)} too, which a recipe cannot be combined with. "
                f"Expected a recipe (evaluate.protocol is set there), or {needs}."
            )
    elif not used:
        raise MllmuError(f"evaluate: expected a RECIPE, or {needs}.")
    elif missing:
        raise MllmuError(
            f"evaluate: {', '.join(missing)} missing. A saved model is evaluated with {needs}; "
            f"leave out {', '.join(used)} to evaluate a recipe."
        )
    elif params["protocol"] not in (None, "official"):
        raise MllmuError(
            f"--protocol {params['protocol']}: a saved model is evaluated by the protocol 'official' alone. "
            "For 'corrected' use a recipe with data.source: {name: mllmu_bench}."
        )
    elif params["no_gate"]:
        raise MllmuError("--no-gate: there is no gate without a recipe; leave it out.")


def parse_shots(listed: Sequence[str]) -> dict[TaskName, list[str] | dict[Split, list[str]]]:
    """``cloze=003,017`` as ``{"cloze": ["003", "017"]}``, ``test.cloze=003`` as ``{"cloze": {"test": ["003"]}}``."""
    everywhere: dict[TaskName, list[str]] = {}
    by_set: dict[TaskName, dict[Split, list[str]]] = {}
    for text in listed:
        place, _, people = text.partition("=")
        split, _, task = place.rpartition(".")
        ids = [part.strip() for part in people.split(",") if part.strip()]
        if task not in SHOT_TASKS or not ids or split not in ("", *SHOT_SETS):
            known = [*SHOT_TASKS, *(f"{one}.{task}" for one in SHOT_SETS for task in SHOT_TASKS)]
            hint = "" if place in known else did_you_mean(place, known)
            raise MllmuError(
                f"--shots {text}: expected [SET.]TASK=ID[,ID...] with a task of {', '.join(SHOT_TASKS)} and a set of "
                f"{', '.join(SHOT_SETS)}.{hint}"
            )
        found = by_set.setdefault(task, {}).setdefault(split, []) if split else everywhere.setdefault(task, [])
        found.extend(ids)
    if both := everywhere.keys() & by_set.keys():
        raise MllmuError(f"--shots: {min(both)} is given for all sets and for one. Name its people by set alone.")
    return {**everywhere, **by_set}


def parse_batch_size(text: str) -> int | Literal["auto"]:
    """A number from 1 up, or ``auto``."""
    if text == "auto":
        return "auto"
    if text.isdecimal() and 1 <= int(text) <= MOST_AT_ONCE:
        return int(text)
    raise MllmuError(f"--batch-size {text}: expected a number from 1 to {MOST_AT_ONCE}, or auto.")


def parse_test_image(text: str) -> int | dict[str, Any]:
    """An index for everyone, or what a JSON file says: an index by person, or by task and person."""
    if text.isdecimal():
        return int(text)
    expected = 'Expected an index from 0 up, or a JSON file such as {"003": 1} or {"cloze": {"003": 1}}.'
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise MllmuError(f"--test-image {text}: {getattr(error, 'strerror', None) or error}. {expected}") from None
    by_task = found.values() if isinstance(found, dict) else ()
    values = [*chain.from_iterable(each.values() if isinstance(each, dict) else [each] for each in by_task)]
    if not values or any(type(value) is not int or value < 0 for value in values):
        raise MllmuError(f"--test-image {text}: no index by person. {expected}")
    return dict(found)


def model_section(path: str, overrides: Sequence[str]) -> ModelSection:
    """The model's settings: the defaults, changed by ``--set model.dtype=float32`` and the like."""
    from mllmu.config.load import apply_override, parse

    raw: dict[str, Any] = {"name": "saved", "model": {"path": path}}
    for override in overrides:
        if not override.startswith("model."):
            raise MllmuError(f"--set {override}: without a recipe only settings of the model can be changed (model.*).")
        apply_override(raw, override)
    return parse(raw, where="--set").model


def table(results: Sequence[MetricResult]) -> Table:
    """The main scores of each set in percent, image + text / text only."""
    cells: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.metric in SCORES and (result.metric != "garbled" or result.task == "generation"):
            value = "–" if result.value is None else f"{100 * result.value:.1f}"
            cells.setdefault((result.split, result.metric), []).append(value)
    splits = list(dict.fromkeys(split for split, _ in cells))
    shown = Table("%, image + text / text only", *splits)
    for name in SCORES:
        shown.add_row(name, *(" / ".join(cells.get((split, name), ["–"])) for split in splits))
    return shown
