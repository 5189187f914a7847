"""``mllmu paper``: an experiment of the MLLMU-Bench paper in one command, with a sentence per finding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from mllmu.cli.run import Force, NoCheck, NoGate, Out, Overrides, RecipeRun, carry_out, tell_ahead
from mllmu.cli.screen import say
from mllmu.core.errors import RecipeError
from mllmu.core.runfolder import RunFolder
from mllmu.studies.paper.setting import PEOPLE, SMALL, Experiment, origin, settings

if TYPE_CHECKING:
    from mllmu.config.recipe import Recipe


def paper(
    experiment: Annotated[Experiment, Argument(help="What is compared: see below.")],
    *,
    model: Annotated[
        str, Option(metavar="tiny|smol|ID", help="tiny, smol: in small, on invented people; ID: as published.")
    ] = "tiny",
    minutes: Annotated[
        float | None, Option(min=1, help="In small: as many people as are estimated to fit on this machine.")
    ] = None,
    bound: Annotated[
        float, Option(min=0, metavar="POINTS", help="Differences below count as none; choose it before you look.")
    ] = 5.0,
    overrides: Overrides = None,
    out: Out = None,
    force: Force = False,
    no_gate: NoGate = False,
    no_check: NoCheck = False,
) -> None:
    """Repeat an experiment of the MLLMU-Bench paper: run it, draw the paper's figures, say which findings hold.

    baseline: what the target and the retain_model know. modalities: unlearning with the portrait against unlearning
    by name. ratios: the trade-off over three forget ratios. Each finding is reproduced, not reproduced, or cannot be
    told, with its interval over people. RUN/paper/index.html has figures and numbers; a stopped command continues.
    """
    run = chosen(experiment, model, minutes, tuple(overrides or ()), out)
    carry_out(run, force=force, gate=not no_gate, check=not no_check, only=None)
    from mllmu.studies.paper.page import write_paper

    page, found = write_paper(run.folder, origin=origin(model), bound=bound / 100)
    for finding in found:
        say(finding.sentence(bound / 100))
    say(f"findings: {page}")


def chosen(
    experiment: Experiment, model: str, minutes: float | None, overrides: tuple[str, ...], out: Path | None
) -> RecipeRun:
    """The recipe of an experiment and its folder; of a time budget, a folder that is there keeps its people."""
    from mllmu.config.variants import default_folder

    plain = _recipe(experiment, model, None, overrides)
    if minutes is None:
        return RecipeRun("", plain, out or default_folder(plain, "", overrides))
    if model not in SMALL:
        raise RecipeError(
            f"--minutes: chooses a number of invented people, and {model} runs on the published ones. Use --model tiny "
            "or smol, or say with --set what to leave out, e.g. evaluate.max_profiles."
        )
    folder = out or default_folder(plain, "", overrides).parent / f"{plain.name}+minutes-{minutes:g}"
    people = _people_of(folder, experiment) or _that_fit(experiment, model, minutes, overrides)
    return RecipeRun("", _recipe(experiment, model, people, overrides), folder)


def _recipe(experiment: Experiment, model: str, people: int | None, overrides: tuple[str, ...]) -> Recipe:
    from mllmu.config.load import apply_override, parse

    raw = settings(experiment, model, people)
    for override in overrides:
        apply_override(raw, override)
    return parse(raw, where=f"paper {experiment}")


def _people_of(folder: Path, experiment: Experiment) -> int | None:
    """People of the run that is in a folder already: an estimate made anew may choose another number.

    Raises:
        RecipeError: the run is about other people than invented ones.
    """
    from mllmu.config.load import load

    path = folder / RunFolder.RECIPE
    if not path.is_file():
        return None
    source = load(path).data.source
    number = source.settings.get("num_people")
    if source.name != "synthetic" or number is None:
        raise RecipeError(
            f"{folder}: holds another run, with people of the source '{source.name}'. Expected a run of 'mllmu paper "
            f"{experiment} --minutes', or a new folder; name one with --out."
        )
    return int(number)


def _that_fit(experiment: Experiment, model: str, minutes: float, overrides: tuple[str, ...]) -> int:
    """The most people whose run is estimated to take no longer than a budget; the fewest if none does."""
    from mllmu.preflight.plan.here import HERE
    from mllmu.preflight.plan.plan import make_plan

    hours = {n: make_plan(_recipe(experiment, model, n, overrides), HERE, rough=True).hours for n in PEOPLE}
    fitting = [number for number, needed in hours.items() if 60 * needed <= minutes]
    if not fitting:
        tell_ahead(f"{PEOPLE[0]} people, the fewest, are estimated to take longer than {minutes:g} minutes")
    return max(fitting, default=PEOPLE[0])
