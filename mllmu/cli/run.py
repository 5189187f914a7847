"""``mllmu run``, ``validate``, one command per stage, ``export-model``; and what all commands on a recipe share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from typer import Argument, BadParameter, Option, echo

from mllmu.cli.failures import explanation, tell
from mllmu.cli.screen import progress, say
from mllmu.core.errors import MllmuError
from mllmu.core.lock import claim, held
from mllmu.core.process import Progress, leads

if TYPE_CHECKING:
    from mllmu.config.recipe import Recipe

Stage = Literal["data", "finetune", "unlearn", "evaluate", "score", "report"]
STAGES: dict[Stage, str] = {
    "finetune": "Fine-tune the target on all people, and the retain model on all but the forget people.",
    "unlearn": "Unlearn the forget people from the target, once with each method of the recipe.",
    "score": "Score the responses of a run with the metrics.",
    "report": "Write the report of a run and print its table.",
}


def _recipe_names(incomplete: str) -> Iterator[tuple[str, str]]:
    """Packaged recipes for the shell to complete; files are completed by the shell itself."""
    from mllmu.config.packaged import first_comment, recipes

    return ((name, first_comment(path)) for name, path in recipes().items() if name.startswith(incomplete))


RecipePath = Annotated[
    Path,
    Argument(
        metavar="RECIPE",
        help="The YAML file that describes the run, or the name of a packaged recipe, e.g. demo.",
        autocompletion=_recipe_names,
    ),
]
Overrides = Annotated[
    list[str] | None, Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. finetune.epochs=3. Repeatable.")
]


def folder_named(text: str) -> Path:
    """The folder that an option names; an empty text, as of a variable that is not set, would be the current folder."""
    if not str(text).strip():
        raise BadParameter("empty, which is no folder. Is a variable not set? Expected the path of a folder.")
    scheme, found, rest = str(text).partition("://")
    if found and scheme.casefold() == "file":
        return Path(rest.removeprefix("localhost"))
    if found and scheme.isidentifier():
        raise BadParameter(
            f"{text}: an address, and run folders are locked, linked and renamed as only a file system can. Expected a "
            "path; mount the storage, or copy the finished folder there."
        )
    return Path(text)


Out = Annotated[
    Path | None,
    Option(metavar="DIR", help="The run folder.", show_default="runs/<name of the recipe>", parser=folder_named),
]
Force = Annotated[bool, Option("--force", help="Redo finished work, also with other settings.")]
NoGate = Annotated[bool, Option("--no-gate", help="Continue even if the target has not memorised the forget people.")]
LogWith = Annotated[
    list[str] | None,
    Option("--log-with", metavar="TRACKER", help="Also tell tensorboard, wandb, mlflow or trackio. Repeatable."),
]
Push = Annotated[
    str | None, Option(metavar="OWNER/NAME", help="Put the folder on the hub (HF_ENDPOINT), in a private repository.")
]
RealPeople = Annotated[
    bool, Option("--push-real-people", help="Push data or models of real people, too: they can be recognised by them.")
]
NoCheck = Annotated[bool, Option("--no-check", help="Train even if mllmu doctor would find a fault, and do not look.")]


class RecipeRun(NamedTuple):
    """A recipe and its run folder; ``name`` says which recipe of a grid it is, and is empty for a single recipe.

    ``missing`` names the paths of the recipe that lead nowhere.
    """

    name: str
    recipe: Recipe
    folder: Path
    missing: Mapping[str, str] = {}

    @contextmanager
    def at_work(self) -> Iterator[Progress]:
        """Keep other commands out of the run folder and show progress."""
        if self.name:
            claim(self.folder.parent)
        from mllmu.core.sharing import share

        with held(self.folder), progress() as display:
            if shared := share(self.folder):
                display.note(f"{self.folder}: shares unchanged work with {', '.join(map(str, shared))}")
            yield display


def each(
    path: Path, overrides: Sequence[str] | None = None, out: Path | None = None, *, quiet: bool = False
) -> Iterator[RecipeRun]:
    """The recipe of a file with its run folder; for a grid, each recipe in a subfolder.

    The folder is ``--out``, or the run folder itself where that is given in place of a recipe, or ``runs/<name>``; what
    ``--set`` makes another run goes into a folder beside that, see :mod:`mllmu.config.variants`.

    All recipes are checked before the first one is yielded. A recipe of a grid is named on stdout when its turn comes,
    unless ``quiet``.
    """
    from mllmu.config.given import given_recipes
    from mllmu.config.variants import default_folder

    for one in given_recipes(path, overrides or ()):
        if one.name and not quiet:
            echo(f"{one.name}:")
        folder = out / one.name if out else one.folder or default_folder(one.recipe, one.name, overrides or ())
        yield RecipeRun(one.name, one.recipe, folder, one.missing)


def execute(
    path: Path,
    overrides: Sequence[str] | None,
    out: Path | None,
    *,
    force: bool,
    no_gate: bool = False,
    no_check: bool = False,
    only: Stage | None,
    reads: bool = False,
    log_with: Sequence[str] = (),
) -> list[RecipeRun]:
    """Run all stages, or ``only`` one; print the table of a new report, and where the results are.

    Args:
        reads: nothing may be made but numbers and pages of what is there.

    A recipe of a grid that fails does not stop the others; a board shows all results so far.

    Returns:
        The recipes that were run, with their folders; nothing in a process that only helps the leading one.

    Raises:
        MllmuError: a recipe failed; for a grid, the reason of each failure has been printed.
    """
    if not leads():  # the others help the leading process with the same recipes, and print nothing
        from mllmu.pipeline.pipeline import Pipeline

        for run in each(path, overrides, out, quiet=True):
            Pipeline(run.recipe, run.folder).run()
        return []
    done, failed = [], []
    for run in each(path, overrides, out):
        try:
            how = {"gate": not (no_gate or reads), "check": not no_check, "reads": reads}
            carry_out(run, force=force, **how, only=only, log_with=log_with)
            done.append(run)
        except Exception as error:
            if not run.name or explanation(error) is None:
                raise
            tell(error)
            failed.append(run.name)
    if run.name and only in {None, "report"}:
        from mllmu.studies.board_page import write_index

        echo(f"board: {write_index(run.folder.parent, run.recipe.name, sorted(run.folder.parent.glob('*/')))}")
    if failed:
        raise MllmuError(f"failed: {', '.join(failed)}; the reasons are above. The same command tries them again.")
    return done


def carry_out(
    run: RecipeRun,
    *,
    force: bool,
    gate: bool,
    check: bool,
    only: Stage | None,
    reads: bool = False,
    log_with: Sequence[str] = (),
) -> None:
    """Run all stages of one recipe, or ``only`` one; arguments as in :func:`execute`."""
    from mllmu.preflight.ahead import look_ahead, must_hold_a_run

    if reads:
        must_hold_a_run(run.folder)
    else:
        look_ahead(run.recipe, run.folder, run.missing, say=tell_ahead, estimate=check and only in {None, "report"})
    with run.at_work() as display:
        # imported late: a wrong recipe, or a folder in use, is reported before the seconds it takes to import torch
        from mllmu.pipeline.pipeline import Pipeline
        from mllmu.pipeline.tracking import tracked
        from mllmu.preflight.doctor.first import check_first
        from mllmu.studies.board_page import index_ratios

        checked = check_first if check and not reads else None
        with tracked(display, log_with, run.recipe, run.folder) as told:
            pipeline = Pipeline(run.recipe, run.folder, force=force, gate=gate, check=checked, progress=told)
            pipeline.reads = reads
            report = pipeline.run(only)
        if report is not None:
            index_ratios(run.recipe, run.folder)
    if report is not None:
        say(pipeline.terminal_table())
    say(f"{'report' if report is not None else f'{only} done'}: {report or run.folder}")


def run(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    only: Annotated[Stage | None, Option(help="Stop after this stage; missing earlier stages are run first.")] = None,
    out: Out = None,
    force: Force = False,
    no_gate: NoGate = False,
    no_check: NoCheck = False,
    log_with: LogWith = None,
) -> None:
    """Run a recipe: make the data, check them with the model, fine-tune, unlearn, evaluate, score, report.

    Finished work is kept and skipped. A fault that mllmu doctor would find stops it before anything is trained. At the
    end the table and the path of the report are printed.
    """
    how = {"force": force, "no_gate": no_gate, "no_check": no_check}
    execute(recipe, overrides, out, **how, only=only, log_with=log_with or ())


READING = ("score", "report")
"""Stages whose commands read what a run has made, and make nothing else."""


def stage_command(stage: Stage) -> Callable[..., None]:
    """The command that runs one stage, after the earlier stages that are not finished; or that only reads a run."""
    reads = stage in READING

    def command(
        recipe: RecipePath,
        *,
        overrides: Overrides = None,
        out: Out = None,
        force: Force = False,
        no_gate: NoGate = False,
        no_check: NoCheck = False,
    ) -> None:
        execute(recipe, overrides, out, force=force, no_gate=no_gate, no_check=no_check, only=stage, reads=reads)

    command.__name__ = stage
    earlier = "Earlier stages that are not finished are run first."
    never = "RECIPE may be the run folder itself. Nothing is trained or asked: what is missing is an error."
    command.__doc__ = f"{STAGES[stage]}\n\n{never if reads else earlier}"
    return command


def validate(
    recipe: RecipePath,
    *,
    overrides: Overrides = None,
    show: Annotated[bool, Option("--show", help="Also print the recipe with all defaults filled in.")] = False,
) -> None:
    """Check a recipe before it runs: every setting, files, model folder, extras, keys; and what it will need here.

    Runs nothing. Prints about how long the run takes on this machine, and the memory and the room that it needs.
    """
    from mllmu.config.load import dump
    from mllmu.preflight.ahead import look_ahead

    runs = list(each(recipe, overrides, quiet=True))
    told: list[str] = []
    for one in runs:
        look_ahead(one.recipe, one.folder, one.missing, say=told.append)
    names = ", ".join(one.name for one in runs)
    echo("valid" if len(runs) == 1 else f"valid: a grid of {len(runs)} recipes: {names}")
    for line in dict.fromkeys(told):
        tell_ahead(line)
    if show:
        echo("---\n".join(dump(one.recipe) for one in runs), nl=False)


def tell_ahead(line: str) -> None:
    """Print on stderr what a run will need."""
    echo(line, err=True)


def export_model(
    run_folder: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a folder of requests.")],
    model: Annotated[
        str,
        Argument(
            metavar="MODEL", help="target, or ratio and model, e.g. forget_10/npo; of a folder of requests: deployed."
        ),
    ],
    out: Annotated[Path, Argument(metavar="DIR", help="New folder for weights and processor.")],
    *,
    device: Annotated[str, Option(help="Device that merges the weights: cpu, cuda ...")] = "cpu",
    push: Push = None,
    push_real_people: RealPeople = False,
) -> None:
    """Save a model with its adapters merged, for lm-eval, vLLM or AutoModelForImageTextToText, with a model card."""
    from mllmu.core.runfolder import read_json
    from mllmu.pipeline.export_model import ABOUT
    from mllmu.pipeline.export_model import export_model as of_run
    from mllmu.requests.export import check_not_purged, export_deployed, recipe_of
    from mllmu.requests.ledger import LEDGER

    if push:
        from mllmu.data.personal import check_push

        check_push(recipe_of(run_folder).data, push, allowed=push_real_people)

    check_not_purged(run_folder, out)
    export = export_deployed if (run_folder / LEDGER).is_file() else of_run
    ref = export(run_folder, model, out, device=device)
    say(f"exported: {out}")
    if ref.system_prompt:
        say("This model also needs its system prompt, which is not part of the weights: see mllmu.json.")
    for note in read_json(out / ABOUT).get("notes", ()):
        say(note)
    if push:
        from mllmu.core.hub import push as upload

        say(f"pushed: {upload(out, push, kind='model')}")
