"""Stage ``data``: people, images, questions, splits."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mllmu.config.load import data_plugins
from mllmu.config.recipe import Recipe
from mllmu.config.variants import data_settings
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
    """The unit of the data; it depends on its settings, the seed, and the content of the files that they name.

    Files may lie elsewhere than when the data were made, as in a copy of recipe and run folder.
    """
    made: dict[str, Any] = unit_record(run.root / RunFolder.DATA).get("inputs", {})
    now: dict[str, Any] = {"seed": run.recipe.seed, "settings": _settings(run.recipe), "files": _files(run.recipe)}
    if not made or run.store.force or not same_elsewhere(made, now, written=_written(run.recipe)):
        return run.store.unit(RunFolder.DATA, now)
    if missing := sorted(path for path in made["files"] if _name(path) not in map(_name, now["files"])):
        run.progress.note(f"{missing[0]}: is gone; the data that were made from it are used")
    return run.store.unit(RunFolder.DATA, made)


def same_elsewhere(made: Mapping[str, Any], now: Mapping[str, Any], *, written: Collection[str] = ()) -> bool:
    """Whether ``settings`` are the same but for the places of ``files``, and no file that is there has other content.

    A file is known by its content; one that is gone by its name, as the run folder holds what was in it, and so is one
    of the names in ``written``, which runs write themselves.
    """
    old, new = made["files"], now["files"]

    def moved(before: Any, after: Any) -> bool:
        if not (isinstance(before, str) and isinstance(after, str)):
            return False
        if before not in old:
            return _name(before) == _name(after) and _name(after) in written
        return bool(new[after] == old[before]) if after in new else _name(before) == _name(after)

    pairs = _differing(made["settings"], json.loads(json.dumps(now["settings"], default=str)))
    known = all(own == old[path] if path in old else own in old.values() for path, own in new.items())
    return made.get("seed") == now.get("seed") and known and all(moved(*pair) for pair in pairs)


def _written(recipe: Recipe) -> set[str]:
    """The names of files that sources write themselves, such as keys of pseudonyms."""
    made = ((plugin, setting) for plugin in _plugins(recipe) for setting in getattr(plugin, "made", ()))
    return {_name(str(getattr(plugin, setting))) for plugin, setting in made}


def _name(path: str) -> str:
    return Path(path).name


def _differing(before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
    """What differs between two trees of plain values, leaf by leaf."""
    if isinstance(before, dict) and isinstance(after, dict) and before.keys() == after.keys():
        for name, value in before.items():
            yield from _differing(value, after[name])
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from _differing(one, other)
    elif before != after:
        yield before, after


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The settings on which data depend; without ``holdout_source`` where there is none, as in earlier runs."""
    settings = data_settings(recipe.data)
    if settings["holdout_source"] is None:
        del settings["holdout_source"]
    return settings


def _files(recipe: Recipe) -> dict[str, str]:
    """Digests of the files and folders that the settings name, by path."""
    section = recipe.data
    paths = [section.splits.file, section.review, *(path for plugin in _plugins(recipe) for path in plugin.files())]
    return {str(path): content_digest(path) for path in paths if path and path.exists()}


def _plugins(recipe: Recipe) -> list[Any]:
    return [spec.build(kind, f"data.{name}") for name, kind, spec in data_plugins(recipe.data)]
