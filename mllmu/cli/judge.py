"""``mllmu judge``: points from 1 to 10 for the responses of a run, by a language model or by rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table
from typer import Option

from mllmu.cli.run import Force, Out, RecipePath, each
from mllmu.cli.screen import interval, number, say
from mllmu.core.errors import DataError
from mllmu.core.runfolder import RunFolder

if TYPE_CHECKING:
    from mllmu.evaluation.judges import Judge
    from mllmu.evaluation.judging import Judged
    from mllmu.llm import Preview

NUM_PROMPTS = 2

Name = Annotated[str, Option("--judge", metavar="NAME", help="The judge; 'mllmu ls judges' lists them.")]
Settings = Annotated[
    list[str] | None,
    Option("--set", metavar="KEY=VALUE", help="A setting of the judge, e.g. model=gpt-4o. Repeatable."),
]
DryRun = Annotated[bool, Option("--dry-run", help="Show the first prompts and count the calls; judge nothing.")]
Compare = Annotated[
    str | None, Option(metavar="JUDGE|FILE", help="Agreement with another judge, or with human scores in a CSV file.")
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

    Reads the responses of an evaluated run; loads none of its models. Verdicts are kept one by one: the same command
    continues after a stop, also after one by the judge's budget.
    """
    grader = build_judge(name, settings or ())
    for run in each(recipe, out=out):
        from mllmu.evaluation import judging

        models = model_names(run.folder)
        if dry_run:
            cases = [case for job in judging.judging_jobs(run.folder, models) for case in job.cases]
            show_preview(f"{len(cases)} responses", grader.preview(cases, NUM_PROMPTS))
            continue
        with run.at_work() as display:
            judged = judging.run(run.folder, models, grader, progress=display, force=force)
        for of_ratio in judged:
            show(of_ratio)
        if compare is not None:
            show_agreement(run.folder, models, grader.name, compare)


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
    from mllmu.config.recipe import jobs, taught_models

    path = root / RunFolder.RECIPE
    if not path.is_file():
        raise DataError(f"{root}: no run in this folder. Run 'mllmu evaluate' first, or name the folder with --out.")
    recipe = load(path)
    return [*taught_models(recipe), *(job.name for job in jobs(recipe))]


def show_preview(what: str, preview: Preview) -> None:
    """Print the first prompts as they are, and how many calls there would be."""
    for index, prompt in enumerate(preview.prompts, start=1):
        say(f"--- prompt {index} ---\n{prompt}\n")
    say(
        f"{what}: {preview.num_calls} calls to an endpoint, {preview.num_cached} of them already in the cache; "
        "retries, repairs and rewritten questions are extra"
    )


def show(judged: Judged) -> None:
    """Print the means of one forget ratio, and what they cost."""
    from mllmu.core.declared import MODALITY_LABELS

    table = Table("model", "set", "modality", "points", "95 % interval", "judged", "not judged")
    for row in judged.results:
        figures = (number(row.value), interval(row.ci_low, row.ci_high), str(row.num), str(row.num_unparsed))
        table.add_row(row.model, row.split, MODALITY_LABELS[row.modality], *figures)
    say(table)
    say("spent: " + ", ".join(f"{name} {amount:g}" for name, amount in judged.spent.items()))
    say(f"verdicts ({judged.key} %): {judged.path}")


def show_agreement(root: Path, models: Sequence[str], name: str, other: str) -> None:
    """Print how far a judge agrees with another one, or with people."""
    from mllmu.evaluation.agreement import agreement, read_people
    from mllmu.evaluation.judging import verdicts

    path = Path(other)
    others = read_people(path) if path.suffix == ".csv" else verdicts(root, models, other)
    result = agreement(verdicts(root, models, name), others)
    if result.num == 0:
        say(f"agreement of {name} and {other}: no response is judged by both")
        return
    kappa = "undefined (no variation)" if result.kappa is None else f"{result.kappa:.3f}"
    say(
        f"agreement of {name} and {other} on {result.num} responses: quadratic-weighted kappa {kappa}, "
        f"same points {100 * (result.exact or 0.0):.1f} %, mean difference {result.mean_difference or 0.0:+.2f}"
    )
