"""What a user gives as RECIPE: a file, the name of a packaged recipe, or a run folder; and where its paths lead.

A path in a recipe is relative to the folder of the recipe, then to the working directory; one that ``--set`` gives is
relative to the working directory first. ``~`` is the home folder. What is at neither place is left as it is written
and named in ``GivenRecipe.missing``: a run that has its data already does not need it.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mllmu.config.load import data_plugins, load_all, parse, put
from mllmu.config.packaged import recipe_file
from mllmu.config.recipe import PluginSpec, Recipe
from mllmu.core.errors import RecipeError
from mllmu.core.names import is_hub_name
from mllmu.core.runfolder import RunFolder
from mllmu.core.sharing import runs_in

EMBEDDED = ("tiny", "smol")
_URL = re.compile(r"https?://(?:www\.)?huggingface\.co/([\w.-]+/[\w.-]+)")


class GivenRecipe(NamedTuple):
    """A recipe and where it comes from.

    Attributes:
        name: which recipe of a grid it is; empty for a single one.
        folder: the run folder that it was read from, if it was.
        missing: its paths that lead nowhere, in words, by setting.
    """

    name: str
    recipe: Recipe
    folder: Path | None
    missing: dict[str, str]


def given_recipes(path: Path, overrides: Sequence[str] = ()) -> list[GivenRecipe]:
    """The recipe that is meant, with its paths resolved; several for a grid, or for the folder of a grid.

    Raises:
        RecipeError: as :func:`mllmu.config.load.load_all`, or a folder holds no run.
    """
    if not path.is_dir():
        file = recipe_file(path)
        return [located(GivenRecipe(name, recipe, None, {}), file, overrides) for name, recipe in
                load_all(file, overrides).items()]  # fmt: skip
    folders = runs_in(path)
    if not folders:
        raise RecipeError(
            f"{path}: no run in this folder (no {RunFolder.RECIPE}). Expected a recipe, or a folder that 'mllmu run' "
            "has made."
        )
    found = []
    for folder in folders:
        name, file = "" if folder == path else folder.name, folder / RunFolder.RECIPE
        (recipe,) = load_all(file, overrides).values()
        found.append(located(GivenRecipe(name, recipe, folder, {}), file, overrides))
    return found


def located(one: GivenRecipe, file: Path, overrides: Sequence[str]) -> GivenRecipe:
    """The recipe of a file with its paths resolved, and what they do not lead to; ``overrides`` have changed it."""
    typed = [override.partition("=")[0].strip() for override in overrides]
    raw, missing, changed = one.recipe.model_dump(mode="json"), dict[str, str](), False
    for key, value, needed in (*path_settings(one.recipe), *_model(one.recipe)):
        first = any(f"{key}.".startswith(f"{name}.") for name in typed)
        found = place(value, file.parent, working_directory_first=first)
        if found is None and needed:
            missing[key] = _nowhere(value, file.parent)
        elif found is not None and found != value:
            put(raw, key, found, where=str(file))
            changed = True
    recipe = parse(raw, where=str(file)) if changed else one.recipe
    if fault := fault_of_model(recipe.model.path):
        missing["model.path"] = fault
    return one._replace(recipe=recipe, missing=missing)


def path_settings(recipe: Recipe) -> Iterator[tuple[str, str, bool]]:
    """Every path that a recipe gives, by its setting, with whether something must be there before the run."""
    for key, value in (("data.splits.file", recipe.data.splits.file), ("data.review", recipe.data.review)):
        if value is not None:
            yield key, str(value), True
    for index, adapter in enumerate(recipe.finetune.given or ()):
        yield f"finetune.given.{index}", str(adapter), True
    for key, kind, spec in plugin_settings(recipe):
        plugin = spec.build(kind, key)
        inputs = set(plugin.files())
        for name in spec.settings:
            value = getattr(plugin, name, None)
            if isinstance(value, Path):
                yield (
                    f"{key}.{name}",
                    str(value),
                    value in inputs and name not in getattr(plugin, "made", ()) and not is_hub_name(value),
                )


def plugin_settings(recipe: Recipe) -> Iterator[tuple[str, str, PluginSpec]]:
    """The plug-ins that read files or ask endpoints, as (setting, kind, plug-in)."""
    for name, kind, spec in data_plugins(recipe.data):
        yield f"data.{name}", kind, spec
    for kind in ("benchmarks", "judges"):
        for index, spec in enumerate(getattr(recipe.evaluate, kind)):
            yield f"evaluate.{kind}.{index}", kind, spec


def _model(recipe: Recipe) -> Iterator[tuple[str, str, bool]]:
    path = recipe.model.path
    if path not in EMBEDDED:
        yield "model.path", path, not is_hub_name(Path(path))


def place(value: str, beside: Path, *, working_directory_first: bool = False) -> str | None:
    """Where a path leads, from the folder of its recipe or from the working directory; None if to neither.

    An absolute path, or one that begins with ``~``, is returned as it is meant, whether there is anything or not.
    """
    path = _home(value)
    if path.is_absolute():
        return str(path) if path.exists() else None
    near = Path(os.path.normpath(beside / path))
    places = [(value, path), (str(near), near)] if working_directory_first else [(str(near), near), (value, path)]
    if near == path:
        places = [(value, path)]
    return next((text for text, at in places if at.exists()), None)


def _home(value: str) -> Path:
    """A path with ``~`` as the home folder; as it is written if there is no such user."""
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return Path(value)


def missing_paths(recipe: Recipe) -> dict[str, str]:
    """The paths of a recipe that lead nowhere from the working directory, in words, by setting."""
    settings = (*path_settings(recipe), *_model(recipe))
    missing = {
        key: f"{value}: no such file or folder"
        for key, value, needed in settings
        if needed and not _home(value).exists()
    }
    fault = fault_of_model(recipe.model.path)
    return missing | ({"model.path": fault} if fault else {})


def _nowhere(value: str, beside: Path) -> str:
    path = _home(value)
    if path.is_absolute() or value.startswith("~"):
        return f"{path}: no such file or folder"
    at, here = os.path.normpath(beside.absolute() / path), os.path.normpath(path.absolute())
    if at == here:
        return f"{value}: no such file or folder ({here})"
    return f"{value}: no such file or folder, neither beside the recipe ({at}) nor from here ({here})"


def fault_of_model(path: str) -> str:
    """What is wrong with a path that can be no model, and what is meant; empty if nothing can be said.

    >>> fault_of_model("https://huggingface.co/llava-hf/llava-1.5-7b-hf")
    'an address. Expected the name on the hub: llava-hf/llava-1.5-7b-hf'
    """
    if url := _URL.match(path):
        return f"an address. Expected the name on the hub: {url[1]}"
    if "$" in path or "%" in path:
        return (
            f"{path}: variables are not replaced in a recipe. Write the folder out, or let the shell replace it (--set)"
        )
    at = _home(path)
    if at.is_file():
        return f"{path}: a file. Expected the folder that it lies in: {at.parent}"
    return ""
