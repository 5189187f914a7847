"""Recipes from Python: read one, run one, open a run. ``mllmu.load_recipe``, ``run`` and ``open_run`` are these."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

from mllmu.config.given import given_recipes
from mllmu.config.grid import GRID
from mllmu.config.load import apply_override, parse
from mllmu.config.recipe import Recipe
from mllmu.config.variants import RUNS
from mllmu.core.errors import RecipeError, RunStoreError
from mllmu.core.lock import held
from mllmu.core.process import Progress, SilentProgress
from mllmu.studies.result import RunResult


def load_recipe(path: Path | str | Mapping[str, Any], *overrides: str) -> Recipe:
    """Read and check a recipe; overrides change settings as ``--set`` does, e.g. ``"finetune.epochs=3"``.

    Args:
        path: a YAML file, the name of a packaged recipe, or a run folder. Paths in it are relative to its folder, then
            to the working directory. Or the settings themselves, as a dict.

    Raises:
        RecipeError: the file is missing, is not YAML, or holds an unknown or impossible setting; or it is a grid, and
            the overrides do not leave one recipe of it.
    """
    if isinstance(path, Mapping):
        return _of_settings(path, overrides)
    found = given_recipes(Path(path), overrides)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise RecipeError(
            f"{path}: a grid of {len(found)} recipes ({names}), and one is needed here. "
            "Set what it varies to one value each."
        )
    return found[0].recipe


def _of_settings(given: Mapping[str, Any], overrides: Sequence[str]) -> Recipe:
    settings = deepcopy(dict(given))
    if GRID in settings:
        raise RecipeError(
            "recipe: grid: a dict is one recipe. Make one dict for each combination, and run them in turn."
        )
    for override in overrides:
        apply_override(settings, override)
    return parse(settings)


def open_run(folder: Path | str) -> RunResult:
    """Open a run folder to look at its numbers, replies, models and report.

    Raises:
        RunStoreError: there is no run in the folder.
    """
    return RunResult(folder)


def run(
    recipe: Recipe | Path | str | Mapping[str, Any],
    out: Path | str | None = None,
    *,
    only: Literal["data", "finetune", "unlearn", "evaluate", "score", "report"] | None = None,
    force: bool = False,
    gate: bool = True,
    check: bool = True,
    progress: Progress | bool = True,
    log_with: Sequence[str] = (),
) -> RunResult:
    """Run a recipe as ``mllmu run`` does; what is finished in the run folder is kept and skipped.

    Args:
        recipe: what :func:`load_recipe` reads, or has made.
        out: the run folder; by default the one that was given in place of a recipe, or ``runs/<name of the recipe>``.
        only: stop behind this stage.
        force: redo finished work (of the stage alone, if ``only`` names one), also if the settings changed.
        gate: stop before unlearning if the target has not memorised the people to forget.
        check: stop before the first training step if ``mllmu doctor`` would find a fault.
        progress: True shows bars, in a notebook too; False nothing; an object of one's own is told what is going on.
        log_with: trackers, see :mod:`mllmu.pipeline.tracking`.

    Returns:
        The run: ``results`` and ``responses`` are data frames, ``model("npo")`` loads one, ``report()`` is shown inline
        by a notebook, ``compare(other)`` lays another run beside it. It stands for its folder where a path is taken.

    Raises:
        MllmuError: the recipe, the data, a model or the folder cannot be used; the message says what to do.
    """
    checked = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if out == "":
        raise RunStoreError(
            "out: empty, which is not a folder. Expected the path of a folder, or None for runs/<name>."
        )
    own = not isinstance(recipe, (Recipe, Mapping)) and Path(recipe).is_dir()
    folder = Path(out) if out is not None else Path(str(recipe)) if own else RUNS / checked.name
    # these import torch, so only after the recipe has turned out to be right
    from mllmu.cli.screen import progress as shown
    from mllmu.pipeline.pipeline import Pipeline
    from mllmu.pipeline.tracking import tracked
    from mllmu.preflight.ahead import look_ahead
    from mllmu.preflight.doctor.first import check_first
    from mllmu.studies.board_page import index_ratios

    first = check_first if check else None
    with shown() if progress is True else nullcontext(progress or SilentProgress()) as display:
        look_ahead(checked, folder, say=display.note, estimate=check and progress is not False)
        with held(folder), tracked(display, log_with, checked, folder) as told:
            pipeline = Pipeline(checked, folder, force=force, gate=gate, check=first, progress=told)
            if pipeline.run(only) is not None:
                index_ratios(checked, folder)
    return RunResult(folder)
