"""Stage ``data``: people, images, questions, splits."""

from pathlib import Path
from typing import Any

from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.content import content_digest
from mllmu.core.runfolder import RunFolder, Unit, unit_record
from mllmu.data import build
from mllmu.pipeline.run import Run


def make_data(run: Run) -> None:
    """Make the data of the recipe, or find them made."""
    section = run.recipe.data
    run.progress.stage("data", f"{section.source.name} people, {section.portraits.name} portraits")
    unit = data_unit(run)
    if not unit.done:
        with unit.making() as facts:
            facts |= build.make(section, run.recipe.seed, unit.building, run.progress)


def data_unit(run: Run) -> Unit:
    """The unit of the data; it depends on its settings, the seed, and the content of the files that they name."""
    files = gone(run.root / RunFolder.DATA, run) | _files(run.recipe)
    inputs = {"seed": run.recipe.seed, "settings": _settings(run.recipe), "files": files}
    return run.store.unit(RunFolder.DATA, inputs)


def gone(folder: Path, run: Run) -> dict[str, str]:
    """The files of finished data that are not there any more, as recorded: the run folder holds what was in them."""
    recorded: dict[str, str] = unit_record(folder).get("inputs", {}).get("files", {})
    missing = {path: digest for path, digest in recorded.items() if not Path(path).exists()}
    if missing and not run.store.force:
        run.progress.note(f"{min(missing)}: is gone; the data that were made from it are used")
    return missing


def _settings(recipe: Recipe) -> dict[str, Any]:
    """All settings but those that only say how patiently, or for how much, an endpoint is asked."""
    settings: dict[str, Any] = recipe.data.model_dump(mode="json")
    if settings["holdout_source"] is None:
        del settings["holdout_source"]
    for part, kind in (("source", "sources"), ("questions", "questions")):
        operational = plugins.find(kind, settings[part]["name"]).operational
        settings[part] = {name: value for name, value in settings[part].items() if name not in operational}
    return settings


def _files(recipe: Recipe) -> dict[str, str]:
    """Digests of the files and folders that the settings name, by path."""
    section = recipe.data
    holdout = section.holdout_source.build("sources", "data.holdout_source") if section.holdout_source else None
    used = (*build.sources(section), holdout, section.portraits.build("portraits", "data.portraits"))
    paths = [section.splits.file, section.review, *(path for plugin in used if plugin for path in plugin.files())]
    return {str(path): content_digest(path) for path in paths if path and path.exists()}
