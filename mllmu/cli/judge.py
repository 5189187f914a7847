"""``mllmu judge``: points from 1 to 10 for the kept replies of a run, by a language model or by rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from mllmu.cli.options import Force, Out, RecipePath, each
from mllmu.cli.screen import progress, results
from mllmu.core.lock import held

if TYPE_CHECKING:
    from mllmu.evaluation.judges import Judge
    from mllmu.evaluation.judging import Judged
    from mllmu.llm import Preview

NUM_PROMPTS = 2

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the judge, e.g. model=gpt-4o. May be repeated."),
]
Name = Annotated[str, typer.Option("--judge", metavar="NAME", help="Who judges; 'mllmu ls judges' lists them.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the first prompts and count the calls; ask nobody.")]
Compare = Annotated[
    str | None,
    typer.Option(
        "--compare", metavar="JUDGE|FILE", help="Agreement with another judge, or with a CSV file of people's scores."
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
    """Let a judge grade the free answers of every model, from 1 (wrong) to 10 (right).

    Works on the kept replies of an evaluated run; needs no model. Verdicts are kept one by one, so the same command
    continues where it was stopped, also by its budget.
    """
    judging = build_judge(name, settings or ())
    for run in each(recipe, out=out):
        _judge(run.folder, judging, compare, dry_run=dry_run, force=force)


def _judge(root: Path, judging: Judge, compare: str | None, *, dry_run: bool, force: bool) -> None:
    from mllmu.evaluation.judging import run

    models = model_names(root)
    if dry_run:
        show_preview(root, models, judging)
        return
    with held(root), progress() as shown:
        judged = run(root, models, judging, progress=shown, force=force)
    for one in judged:
        show(one)
    if compare is not None:
        show_agreement(root, models, judging.name, compare)


def build_judge(name: str, settings: Sequence[str]) -> Judge:
    """The judge of a name, with ``key=value`` settings."""
    from mllmu.config.load import apply_override
    from mllmu.core.plugins import build

    raw: dict[str, Any] = {}
    for setting in settings:
        apply_override(raw, setting)
    made: Judge = build("judges", name, raw, where="judge")
    return made


def model_names(root: Path) -> list[str]:
    """The models of a run, in the order of its report; a folder without a run raises DataError."""
    from mllmu.config.load import load
    from mllmu.config.recipe import jobs
    from mllmu.core.errors import DataError
    from mllmu.core.names import RETAIN_MODEL, TARGET

    path = root / "recipe.yaml"
    if not path.is_file():
        raise DataError(f"{root}: no run in this folder. Run 'mllmu evaluate' first, or name the folder with --out.")
    return [TARGET, RETAIN_MODEL, *(job.name for job in jobs(load(path)))]


def show_preview(root: Path, models: Sequence[str], judging: Judge) -> None:
    """Print the first prompts and how many calls there would be."""
    from mllmu.evaluation.judging import dockets

    cases = [case for docket in dockets(root, models) for case in docket.cases]
    preview, console = judging.preview(cases, NUM_PROMPTS), results()
    show_prompts(preview)
    console.print(
        f"{len(cases)} replies, {preview.num_calls} calls to an endpoint, {preview.num_cached} of them already in the "
        "cache; retries and repairs come on top"
    )


def show_prompts(preview: Preview) -> None:
    """Print prompts as they are."""
    for number, prompt in enumerate(preview.prompts, start=1):
        results().print(Text(f"--- prompt {number} ---\n{prompt}\n"), soft_wrap=True)


def show(judged: Judged) -> None:
    """Print the means of one forget ratio, and what they cost."""
    table = Table("model", "set", "asked with", "points", "95 % interval", "judged", "not judged")
    for row in judged.results:
        value = "-" if row.value is None else f"{row.value:.2f}"
        low, high = row.ci_low, row.ci_high
        interval = "-" if low is None or high is None else f"{low:.2f} to {high:.2f}"
        modality = "image" if row.modality == "image_text" else "text"
        table.add_row(row.model, row.split, modality, value, interval, str(row.num), str(row.num_unparsed))
    console = results()
    console.print(table)
    console.print("spent: " + ", ".join(f"{name} {amount:g}" for name, amount in judged.spent.items()))
    console.print(f"verdicts ({judged.key} %): {judged.path}", soft_wrap=True)


def show_agreement(root: Path, models: Sequence[str], name: str, other: str) -> None:
    """Print how far a judge agrees with another one, or with people."""
    from mllmu.evaluation.agreement import agreement, read_people
    from mllmu.evaluation.judging import verdicts

    file = Path(other)
    theirs = read_people(file) if file.suffix == ".csv" else verdicts(root, models, other)
    found = agreement(verdicts(root, models, name), theirs)
    if found.num == 0:
        results().print(f"agreement of {name} and {other}: no reply is judged by both")
        return
    kappa = "undefined (no variation)" if found.kappa is None else f"{found.kappa:.3f}"
    results().print(
        f"agreement of {name} and {other} on {found.num} replies: quadratic-weighted kappa {kappa}, "
        f"same points {100 * (found.exact or 0.0):.1f} %, mean difference {found.mean_difference or 0.0:+.2f}",
        soft_wrap=True,
    )
