"""Recipes from Python: read one, run one. ``mllmu.load_recipe`` and ``mllmu.run`` are these."""

from pathlib import Path
from typing import Literal

from mllmu.config.given import given_recipes
from mllmu.config.recipe import Recipe
from mllmu.core.errors import RecipeError, RunStoreError
from mllmu.core.lock import held
from mllmu.core.process import Progress, SilentProgress


def load_recipe(path: Path | str, *overrides: str) -> Recipe:
    """Read and check a recipe; overrides change settings as ``--set`` does, e.g. ``"finetune.epochs=3"``.

    Args:
        path: a YAML file, the name of a packaged recipe, or a run folder. Paths in it are relative to its folder, then
            to the working directory.

    Raises:
        RecipeError: the file is missing, is not YAML, or holds an unknown or impossible setting; or it is a grid, and
            the overrides do not leave one recipe of it.
    """
    found = given_recipes(Path(path), overrides)
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise RecipeError(
            f"{path}: a grid of {len(found)} recipes ({names}), and one is needed here. "
            "Set what it varies to one value each."
        )
    return found[0].recipe


def run(
    recipe: Recipe | Path | str,
    out: Path | str | None = None,
    *,
    only: Literal["data", "finetune", "unlearn", "evaluate", "score", "report"] | None = None,
    force: bool = False,
    gate: bool = True,
    check: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Run a recipe as ``mllmu run`` does; what is finished in the run folder is kept and skipped.

    Args:
        recipe: what :func:`load_recipe` reads, or has made.
        out: the run folder; by default the one that was given in place of a recipe, or ``runs/<name of the recipe>``.
        only: stop behind this stage.
        force: redo finished work (of the stage alone, if ``only`` names one), also if the settings changed.
        gate: stop before unlearning if the target has not memorised the people to forget.
        check: stop before the first training step if ``mllmu doctor`` would find a fault.
        progress: told what is going on; nothing is shown by default.

    Returns:
        The run folder; after the last stage it holds ``report/index.html``.

    Raises:
        MllmuError: the recipe, the data, a model or the folder cannot be used; the message says what to do.
    """
    checked = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if out == "":
        raise RunStoreError(
            "out: empty, which is not a folder. Expected the path of a folder, or None for runs/<name>."
        )
    own = not isinstance(recipe, Recipe) and Path(recipe).is_dir()
    folder = Path(out) if out is not None else Path(str(recipe)) if own else Path("runs") / checked.name
    # these import torch, so only after the recipe has turned out to be right
    from mllmu.pipeline.pipeline import Pipeline
    from mllmu.preflight.ahead import look_ahead
    from mllmu.preflight.doctor.first import check_first
    from mllmu.studies.board_page import index_ratios

    first = check_first if check else None
    pipeline = Pipeline(checked, folder, force=force, gate=gate, check=first, progress=progress)
    look_ahead(checked, folder, say=(progress or SilentProgress()).note, estimate=check and progress is not None)
    with held(folder):
        if pipeline.run(only) is not None:
            index_ratios(checked, folder)
    return folder
