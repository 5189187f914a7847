"""From a YAML file to a checked recipe: overrides, defaults, and grids of several recipes in one file.

``load`` reads a file, applies ``--set a.b.c=value``, fills defaults, and checks every setting, those of the plug-ins
included, before anything runs. An unknown key is an error that names the nearest known one.

A file with ``grid: {model.path: [a, b], seed: [0, 1]}`` holds one recipe per combination of these values, each with a
run folder of its own, named after the values.
"""

import itertools
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mllmu.config.grid import GRID, axes_of, name_of_value
from mllmu.config.packaged import recipe_file
from mllmu.config.recipe import Evaluate, Recipe, jobs
from mllmu.core import plugins
from mllmu.core.errors import PluginError, RecipeError
from mllmu.core.records import QUESTION_FORMAT, TaskName


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or a packaged recipe by its name, apply ``a.b.c=value`` overrides, and check it completely.

    Raises:
        RecipeError: the file is missing, is not YAML, or holds an unknown or impossible setting; or it is a grid, and
            the overrides do not leave one recipe of it.
    """
    found = load_all(path, overrides)
    if len(found) > 1:
        raise RecipeError(
            f"{path}: a grid of {len(found)} recipes ({', '.join(found)}), and one is needed here. "
            "Set what it varies to one value each."
        )
    return next(iter(found.values()))


def load_all(path: Path, overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """All recipes of a file: one for each combination of its ``grid``, by name, or the one of a plain file, by "".

    Raises:
        RecipeError: as :func:`load`, or the grid is not one; every combination is checked.
    """
    raw = read(path)
    apply_overrides(raw, overrides, where=str(path))
    several = combinations(raw, where=str(path)) if GRID in raw else {}
    found = {name: _titled(parse(one, where=f"{path} ({name})"), name) for name, one in several.items()}
    found = found or {"": parse(raw, where=str(path))}
    if any(recipe.model.dtype == "float16" for recipe in found.values()):
        raise RecipeError(f"{path}: model.dtype: float16 loses small gradients. Use bfloat16 or float32 for a run.")
    return found


def _titled(recipe: Recipe, name: str) -> Recipe:
    """One of a grid, whose report says which one."""
    title = f"{recipe.report.title or recipe.name}: {name}"
    return recipe.model_copy(update={"report": recipe.report.model_copy(update={"title": title})})


def parse(raw: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Check a mapping of settings, plug-in settings included, and return the recipe."""
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(plugins.explain(error, Recipe, where=f"{where}: ")) from None
    check_plugins(recipe, where=where)
    return recipe


def check_plugins(recipe: Recipe, *, where: str = "recipe") -> None:
    """Construct every plug-in the recipe names, so that a typo fails before the first second of work."""
    recipe.data.source.build("sources", f"{where}: data.source")
    recipe.data.portraits.build("portraits", f"{where}: data.portraits")
    recipe.data.questions.build("questions", f"{where}: data.questions")
    if recipe.data.celebrities:
        recipe.data.celebrities.build("sources", f"{where}: data.celebrities")
    for kind in ("benchmarks", "attacks"):
        for spec in (each for each in getattr(recipe.evaluate, kind) if (kind, each.name) not in _NO_PLUGINS):
            spec.build(kind, f"{where}: evaluate.{kind}")
    for (section, setting), kind in _NAMED.items():
        for name in getattr(getattr(recipe, section), setting):
            if (kind, name) not in _NO_PLUGINS:
                _known(kind, name, f"{where}: {section}.{setting}")
    _check_tasks(recipe, where)
    _check_judges(recipe, where)
    if recipe.model.family != "auto":
        plugins.find("families", recipe.model.family)
    for job in jobs(recipe, where=where):
        if job.method.uses_holdout and not recipe.data.splits.calibration:
            hint = "compares with people that no model is trained on: set data.splits.calibration above 0, or its floor"
            raise RecipeError(f"{where}: unlearn.methods: {job.name} {hint}.")


_NAMED = {
    ("evaluate", "tasks"): "tasks",
    ("evaluate", "metrics"): "metrics",
    ("evaluate", "extra_metrics"): "metrics",
    ("evaluate", "summaries"): "summaries",
    ("data", "train_formats"): "tasks",
}
_NO_PLUGINS = {("summaries", "all"), ("attacks", "all"), ("tasks", QUESTION_FORMAT)}
"""Words that stand beside the names of plug-ins."""


def _known(kind: str, name: str, where: str) -> None:
    try:
        plugins.find(kind, name)
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from None


def _check_tasks(recipe: Recipe, where: str) -> None:
    """A task whose questions are put in the published words, or shown as examples, must have a text for that."""
    evaluate, plain = recipe.evaluate, Evaluate.model_fields["protocol"].default
    for label, protocol in {"protocol": evaluate.protocol, **evaluate.compare}.items():
        if protocol == plain:
            continue
        for name, people in protocol.shots.by_task.items():
            setting = f"{where}: evaluate.{label}.shots.{name}"
            _known("tasks", name, setting)
            if people and protocol.prompts == "published" and not _published_people(name):
                raise RecipeError(f"{setting}: the published prompt of this task has no examples; leave it out.")
        for name in evaluate.tasks:
            if protocol.prompts == "published" and _published_people(name) is None:
                raise RecipeError(f"{where}: evaluate.tasks: '{name}' has no published prompt; use prompts: chat.")


def _published_people(task: TaskName) -> int | None:
    people: int | None = plugins.find("tasks", task).published_people
    return people


def _check_judges(recipe: Recipe, where: str) -> None:
    built = [
        spec.build("judges", f"{where}: evaluate.judges[{index}]") for index, spec in enumerate(recipe.evaluate.judges)
    ]
    names = [judge.name for judge in built]
    if len(set(names)) < len(names):
        raise RecipeError(f"{where}: evaluate.judges: two are named alike ({', '.join(names)}). Give each a 'label'.")


def dump(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML: what ``recipe.yaml`` in the run folder holds."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Plain YAML in which a setting given twice is an error; the first one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def read_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text; RecipeError if it is none."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        fault = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise RecipeError(f"{where}: not valid YAML: {fault}.") from None


def read(path: Path) -> dict[str, Any]:
    """The settings in a recipe file, unchecked.

    Raises:
        RecipeError: the file is missing, is not YAML, or is no mapping of settings.
    """
    path = path if path.is_file() else recipe_file(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{path}: cannot be read ({reason}). Expected a YAML text file.") from None
    raw = read_yaml(text, where=str(path)) or {}
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected a mapping of settings, got {type(raw).__name__}.")
    return raw


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key in place: ``finetune.lora.rank=8``, ``unlearn.methods.0.beta=0.1``; values are YAML.

    What is missing on the way is made, and a plug-in given by its bare name becomes ``{name: ...}`` to hold settings.
    """
    key, sign, text = override.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"--set {override}: expected key=value, e.g. --set finetune.epochs=3.")
    put(raw, key.strip(), read_yaml(text, where=f"--set {override}"), where=f"--set {override}")


def put(raw: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    """Set one dotted key in place to a value; ``where`` begins the messages of errors."""
    *path, last = key.split(".")
    node: Any = raw
    for part in path:
        place = _index(node, part, where) if isinstance(node, list) else part
        node = _enter(node, place, where)
    node[_index(node, last, where) if isinstance(node, list) else last] = value


def _enter(node: Any, place: Any, where: str) -> Any:
    """The settings or the list inside a place, made this place's own: a YAML alias puts one object in several."""
    inside = node[place] if isinstance(node, list) else node.get(place)
    if isinstance(inside, str):
        inside = {"name": inside}
    if not isinstance(inside, (dict, list, type(None))):
        raise RecipeError(f"{where}: '{place}' is a single value, it has no settings inside.")
    node[place] = copy(inside) if inside is not None else {}
    return node[place]


def _index(node: list[Any], part: str, where: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise RecipeError(f"{where}: '{part}' is no position in a list of {len(node)}; the first is 0.")
    return int(part)


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str], *, where: str) -> None:
    """Apply ``a.b=value`` changes in place; one of a setting in the grid leaves this value alone in the grid.

    Raises:
        RecipeError: a change of a part of a varied setting, or of a section around it: one would undo the other.
    """
    for change in overrides:
        apply_override(raw, change)
    for change in overrides if GRID in raw else ():
        key, _, text = change.partition("=")
        key = key.strip()
        for axis in axes_of(raw, where):
            if key == axis:
                raw[GRID] = raw[GRID] | {axis: [read_yaml(text, where=f"--set {change}")]}
            elif f"{axis}.".startswith(f"{key}.") or f"{key}.".startswith(f"{axis}."):
                raise RecipeError(
                    f"--set {change}: the grid varies '{axis}'. Set '{axis}' as a whole, or edit the grid."
                )


def combinations(raw: dict[str, Any], *, where: str) -> dict[str, dict[str, Any]]:
    """The settings of every combination by its name, the last axis varying fastest.

    Raises:
        RecipeError: the grid is not a mapping of settings to lists of values, or two combinations have one name.
    """
    axes = axes_of(raw, where)
    found: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*axes.values()):
        name = "_".join(map(name_of_value, values))
        if name in found:
            raise RecipeError(f"{where}: grid: two combinations are named '{name}'. Run them as recipes of their own.")
        one = deepcopy({key: value for key, value in raw.items() if key != GRID})
        for axis, value in zip(axes, values, strict=True):
            put(one, axis, deepcopy(value), where=f"{where}: grid: {axis}")
        found[name] = one
    return found
