"""``mllmu status``, ``mllmu ls runs`` and ``mllmu rm``: what run folders hold, and how to be rid of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.table import Table
from typer import Argument, Option, confirm

from mllmu.cli.screen import duration, say
from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.names import ratio_order
from mllmu.core.runfolder import UNIT_FILE, RunFolder, read_json
from mllmu.core.sharing import runs_in

if TYPE_CHECKING:
    from mllmu.config.recipe import Recipe

RunPath = Annotated[Path, Argument(metavar="RUN", help="A run folder.")]
UNITS = ("data", "models", "responses", "scores")


def status(run: RunPath) -> None:
    """Say what of a run is done, what is missing, and whether a command is at work there now."""
    from mllmu.config.load import load

    for folder in run_folders(run):
        recipe = load(folder / RunFolder.RECIPE)
        say(f"{folder}: {state(folder)}")
        for key, models in expected(recipe, folder).items():
            table = Table("model", *UNITS[1:], title=f"forgetting {key} %", title_justify="left", box=None)
            for model in models:
                table.add_row(model, *stages(folder, key, model))
            say(table)
        seconds = read_json(folder / RunFolder.RECORD).get("seconds", {})
        spent = ", ".join(f"{stage} {duration(value)}" for stage, value in seconds.items() if value)
        say(f"time: {spent or 'none yet'}; on the disk: {size_text(folder)}")
        page = folder / RunFolder.REPORT / "index.html"
        say(f"report: {page}" if page.is_file() else "report: none yet")


def expected(recipe: Recipe, folder: Path) -> dict[str, list[str]]:
    """The models of a recipe by forget ratio in percent."""
    from mllmu.config.recipe import jobs, percent, taught_models

    models = [*taught_models(recipe), *(job.name for job in jobs(recipe))]
    keys = {percent(ratio) for ratio in recipe.data.splits.forget_ratios}
    evaluated = RunFolder(folder).evaluated_keys()
    if evaluated and (recipe.unlearn.forget or recipe.unlearn.requests):
        keys = set()  # the people who are named may be another share
    return dict.fromkeys(sorted({*keys, *evaluated}, key=ratio_order), models)


def stages(folder: Path, key: str, model: str) -> Iterator[str]:
    """Of a model, its responses and their scores: 'done', 'begun' or nothing."""
    of_model = folder / RunFolder.evaluation(key) / model
    for path in (
        folder / RunFolder.model_unit(key, model),
        of_model / RunFolder.RESPONSES,
        of_model / RunFolder.SCORES,
    ):
        begun = path.with_name(f".{path.name}.building").is_dir()
        yield "done" if (path / UNIT_FILE).is_file() else "begun" if begun else "-"


def run_folders(path: Path) -> list[Path]:
    """A run folder, or those of a grid.

    Raises:
        DataError: there is no run.
    """
    found = runs_in(path)
    if not found:
        raise DataError(f"{path}: no run in this folder (no {RunFolder.RECIPE}). Expected one made by 'mllmu run'.")
    return found


def state(folder: Path) -> str:
    """How a run stands: done, interrupted, failed, or who is at work there."""
    from mllmu.core.lock import holder

    if who := holder(folder):
        return f"{who} is at work here"
    found = str(read_json(folder / RunFolder.RECORD).get("status", "not begun"))
    return "stopped without a word; 'mllmu run' with the recipe goes on" if found == "running" else found


def runs_table(root: Path) -> Table:
    """One line per run below a folder.

    Raises:
        DataError: there is none.
    """
    files = sorted({*root.glob(f"*/{RunFolder.RECIPE}"), *root.glob(f"*/*/{RunFolder.RECIPE}")})
    if not files:
        raise DataError(f"{root}: no runs in this folder. 'mllmu run demo' makes one; name another folder.")
    table = Table("run", "state", "model", "models", "changed", "size", box=None)
    table.columns[0].overflow = "fold"
    for file in files:
        folder = file.parent
        base = read_json(folder / RunFolder.RECORD).get("model", "-")
        changed = datetime.fromtimestamp(file.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
        made = str(len(RunFolder(folder).models_made()))
        table.add_row(folder.relative_to(root).as_posix(), state(folder).partition(";")[0], str(base), made, changed,
                      size_text(folder))  # fmt: skip
    return table


def size_text(folder: Path) -> str:
    """Bytes of all files of a folder, as a reader says them; what is shared with other runs counts in each."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def rm(
    runs: Annotated[list[Path], Argument(metavar="RUN...", help="Run folders, or folders of grids.")],
    *,
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove run folders with everything in them; folders that mllmu did not make, or works in, are left alone."""
    from mllmu.core.lock import holder, is_ours

    for folder in runs:
        if folder.is_symlink() or not folder.is_dir() or not is_ours(folder) or not run_folders(folder):
            raise RunStoreError(f"{folder}: is no run folder. Expected one made by 'mllmu run'; nothing was removed.")
        for one in run_folders(folder):
            if who := holder(one):
                raise RunStoreError(f"{one}: {who} is at work in this run folder. Stop it first; nothing was removed.")
    for folder, place in [(folder, folder.resolve()) for folder in runs]:  # '.' has no name to be renamed by
        if not yes and not confirm(f"remove {folder} ({size_text(folder)})?"):
            say(f"kept {folder}")
            continue
        _remove(place)
        say(f"removed {folder}")


def _remove(folder: Path) -> None:
    """First the name, then the content: half a run is never found under its name."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.removed")
    try:
        folder.replace(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise RunStoreError(f"{folder}: cannot be removed ({error.strerror or json.dumps(str(error))}).") from None
