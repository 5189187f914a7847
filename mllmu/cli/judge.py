"""``mllmu judge``: points from 1 to 10 for the kept replies of a run, by a language model or by rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from mllmu.cli.options import Force, Out, RecipePath, Run, each
from mllmu.cli.screen import MODALITIES, interval, number, say
from mllmu.core.errors import DataError
from mllmu.core.runfolder import RunFolder

if TYPE_CHECKING:
    from mllmu.evaluation.judges import Judge
    from mllmu.evaluation.judging import Judged
    from mllmu.llm import Preview

NUM_PROMPTS = 2

Name = Annotated[str, typer.Option("--judge", metavar="NAME", help="The judge; 'mllmu ls judges' lists them.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the judge, e.g. model=gpt-4o. Repeatable."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the first prompts and count the calls; judge nothing.")]
Compare = Annotated[
    str | None,
    typer.Option(
        "--compare", metavar="JUDGE|FILE", help="Agreement with another judge, or with people's scores in a CSV file."
    ),
]


def judge(
    recipe: RecipePath,
    *,
    name: Name = "rule",
    settings: Settings = None,
    dry_run: DryRun = False,
    compare: Compare = None,
    out: Out = None,
    force: Force = False,
) -> None:
    """Grade the free-form answers of every model from 1 (wrong) to 10 (right).

    Works on the kept replies of an evaluated run and needs no model of it. Verdicts are kept one by one: the same
    command continues after a stop, also one by the judge's budget.
    """
    grader = build_judge(name, settings or ())
    for run in each(recipe, out=out):
        models = model_names(run.folder)
        if dry_run:
            show_preview(run.folder, models, grader)
            continue
        _judge(run, models, grader, force=force)
        if compare is not None:
            show_agreement(run.folder, models, grader.name, compare)


def _judge(run: Run, models: Sequence[str], grader: Judge, *, force: bool) -> None:
    from mllmu.evaluation.judging import run as grade

    with run.at_work() as display:
        judged = grade(run.folder, models, grader, progress=display, force=force)
    for one in judged:
        show(one)


def build_judge(name: str, settings: Sequence[str]) -> Judge:
    """The judge of a name, with ``key=value`` settings."""
    from mllmu.config.load import apply_override
    from mllmu.core.plugins import build

    raw: dict[str, Any] = {}
    for setting in settings:
        apply_override(raw, setting)
    grader: Judge = build("judges", name, raw, where="judge")
    return grader


def model_names(root: Path) -> list[str]:
    """The models of a run, in the order of its report; a folder without a run raises DataError."""
    from mllmu.config.load import load
    from mllmu.config.recipe import jobs
    from mllmu.core.names import RETAIN_MODEL, TARGET

    path = root / RunFolder.RECIPE
    if not path.is_file():
        raise DataError(f"{root}: no run in this folder. Run 'mllmu evaluate' first, or name the folder with --out.")
    return [TARGET, RETAIN_MODEL, *(job.name for job in jobs(load(path)))]


def show_preview(root: Path, models: Sequence[str], grader: Judge) -> None:
    """Print the first prompts and how many calls there would be."""
    from mllmu.evaluation.judging import dockets

    cases = [case for docket in dockets(root, models) for case in docket.cases]
    preview = grader.preview(cases, NUM_PROMPTS)
    show_prompts(preview)
    say(
        f"{len(cases)} replies, {preview.num_calls} calls to an endpoint, {preview.num_cached} of them already in the "
        "cache; retries and repairs are extra"
    )


def show_prompts(preview: Preview) -> None:
    """Print prompts as they are."""
    for index, prompt in enumerate(preview.prompts, start=1):
        say(f"--- prompt {index} ---\n{prompt}\n")


def show(judged: Judged) -> None:
    """Print the means of one forget ratio, and what they cost."""
    table = Table("model", "set", "modality", "points", "95 % interval", "judged", "not judged")
    for row in judged.results:
        figures = (number(row.value), interval(row.ci_low, row.ci_high), str(row.num), str(row.num_unparsed))
        table.add_row(row.model, row.split, MODALITIES[row.modality], *figures)
    say(table)
    say("spent: " + ", ".join(f"{name} {amount:g}" for name, amount in judged.spent.items()))
    say(f"verdicts ({judged.key} %): {judged.path}")


def show_agreement(root: Path, models: Sequence[str], name: str, other: str) -> None:
    """Print how far a judge agrees with another one, or with people."""
    from mllmu.evaluation.agreement import agreement, read_people
    from mllmu.evaluation.judging import verdicts

    file = Path(other)
    theirs = read_people(file) if file.suffix == ".csv" else verdicts(root, models, other)
    found = agreement(verdicts(root, models, name), theirs)
    if found.num == 0:
        say(f"agreement of {name} and {other}: no reply is judged by both")
        return
    kappa = "undefined (no variation)" if found.kappa is None else f"{found.kappa:.3f}"
    say(
        f"agreement of {name} and {other} on {found.num} replies: quadratic-weighted kappa {kappa}, "
        f"same points {100 * (found.exact or 0.0):.1f} %, mean difference {found.mean_difference or 0.0:+.2f}"
    )
