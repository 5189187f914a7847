"""From a YAML file to a checked recipe: overrides, defaults, and grids of several recipes in one file.

``load`` reads a file, applies ``--set a.b.c=value``, fills defaults, and checks every setting, those of the plug-ins
included, before anything runs. An unknown key is an error that names the nearest known one.

A file with ``grid: {model.path: [a, b], seed: [0, 1]}`` holds one recipe per combination of these values, each with a
run folder of its own, named after the values.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mllmu.config import plain
from mllmu.config.grid import GRID, combinations
from mllmu.config.packaged import recipe_file
from mllmu.config.protocol import check_tasks
from mllmu.config.recipe import DataSection, Evaluate, PluginSpec, Recipe, jobs
from mllmu.config.requests import settled
from mllmu.core import plugins
from mllmu.core.confidential import SECRET_NAME
from mllmu.core.errors import RecipeError
from mllmu.core.explain import explain
from mllmu.core.records import QUESTION_FORMAT


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or a packaged recipe by its name, apply ``a.b.c=value`` overrides, and check it completely.

    Raises:
        RecipeError: the file is missing, is not YAML, or holds an unknown or impossible setting; or it is a grid, and
            the overrides do not leave one recipe of it.
    """
    found = load_all(path, overrides)
    if len(found) > 1:
        listed = f"{len(found)} recipes ({', '.join(found)})"
        raise RecipeError(f"{path}: a grid of {listed}, and one is needed here. Set what it varies to one value each.")
    return next(iter(found.values()))


def load_all(path: Path, overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """All recipes of a file: one for each combination of its ``grid``, by name, or the one of a plain file, by "".

    Raises:
        RecipeError: as :func:`load`, or the grid is not one; every combination is checked.
    """
    raw = read(path)
    changed = dict(apply_override(raw, override) for override in overrides)
    several = combinations(raw.pop(GRID), changed, where=str(path)) if GRID in raw else {"": {}}
    found = {}
    for name, values in several.items():
        one = deepcopy(raw)
        for axis, value in values.items():
            put(one, axis, deepcopy(value), where=f"{path}: grid: {axis}")
        found[name] = _titled(parse(one, where=f"{path} ({name})"), name) if name else parse(one, where=str(path))
    if any(recipe.model.dtype == "float16" for recipe in found.values()):
        raise RecipeError(f"{path}: model.dtype: float16 loses small gradients. Use bfloat16 or float32 for a run.")
    return found


def _titled(recipe: Recipe, name: str) -> Recipe:
    """One of a grid, whose report says which one."""
    title = f"{recipe.report.title or recipe.name}: {name}"
    return recipe.model_copy(update={"report": recipe.report.model_copy(update={"title": title})})


def check_plain(value: Any, place: str, left: Iterator[int] | None = None, depth: int = 0) -> None:
    """RecipeError for what no recipe may hold (see :mod:`mllmu.config.plain`), at any depth; ``place`` is named."""
    left = left or iter(range(plain.MOST_VALUES))
    odd = isinstance(value, (int, float)) and not abs(value) <= plain.LARGEST
    if isinstance(value, str):
        odd = bool(plain.SUSPECT.search(value) or SECRET_NAME.search(place))
    beyond = depth > plain.DEEPEST or next(left, None) is None
    if odd or beyond:
        plain.refuse(value, place, beyond=beyond)
    inside = (
        enumerate(value) if isinstance(value, (list, tuple)) else value.items() if isinstance(value, Mapping) else ()
    )
    for key, one in inside:
        check_plain(one, f"{place}.{key}" if depth else f"{place}{key}", left, depth + 1)


def parse(raw: Mapping[str, Any], *, where: str = "recipe") -> Recipe:
    """Check a mapping of settings, plug-in settings included, and return the recipe."""
    check_plain(raw, f"{where}: ")
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe, where=f"{where}: ")) from None
    check_plugins(recipe, where=where)
    requested = recipe.unlearn.forget or recipe.unlearn.requests
    return settled(recipe, {job.name: job.method for job in jobs(recipe)}) if requested else recipe


def check_plugins(recipe: Recipe, *, where: str = "recipe") -> None:
    """Construct every plug-in the recipe names, so that a typo fails before the first second of work."""
    for name, kind, spec in data_plugins(recipe.data):
        spec.build(kind, f"{where}: data.{name}")
    for kind in ("benchmarks", "attacks"):
        for spec in (each for each in getattr(recipe.evaluate, kind) if (kind, each.name) not in _NO_PLUGINS):
            spec.build(kind, f"{where}: evaluate.{kind}")
    for (section, setting), kind in _NAMED.items():
        for name in getattr(getattr(recipe, section), setting):
            if (kind, name) not in _NO_PLUGINS:
                plugins.known(kind, name, f"{where}: {section}.{setting}")
    _check_evaluation(recipe.evaluate, f"{where}: evaluate")
    if recipe.model.family != "auto":
        plugins.find("families", recipe.model.family)
    for job in jobs(recipe, where=where):
        if job.method.uses_holdout and not recipe.data.splits.calibration:
            hint = "compares with people that no model is trained on: set data.splits.calibration above 0, or its floor"
            raise RecipeError(f"{where}: unlearn.methods: {job.name} {hint}.")


def data_plugins(section: DataSection) -> list[tuple[str, str, PluginSpec]]:
    """The plug-ins that data are made with, as (setting, kind, plug-in)."""
    names = dict.fromkeys(("source", "celebrities", "holdout_source"), "sources")
    names |= {"portraits": "portraits", "questions": "questions"}
    return [(name, kind, spec) for name, kind in names.items() if (spec := getattr(section, name))]


_NAMED = {
    ("evaluate", "tasks"): "tasks",
    ("evaluate", "metrics"): "metrics",
    ("evaluate", "extra_metrics"): "metrics",
    ("evaluate", "summaries"): "summaries",
    ("data", "train_formats"): "tasks",
}
_NO_PLUGINS = {("summaries", "all"), ("attacks", "all"), ("tasks", QUESTION_FORMAT)}
"""Words that stand beside the names of plug-ins."""


def _check_evaluation(evaluate: Evaluate, where: str) -> None:
    if evaluate.compare or evaluate.protocol != Evaluate.model_fields["protocol"].default:
        check_tasks({"protocol": evaluate.protocol, **evaluate.compare}, evaluate.tasks, where)
    judges = [spec.build("judges", f"{where}.judges[{index}]").name for index, spec in enumerate(evaluate.judges)]
    if len(set(judges)) < len(judges):
        raise RecipeError(f"{where}.judges: two are named alike ({', '.join(judges)}). Give each a 'label'.")


def dump(recipe: Recipe) -> str:
    """The fully resolved recipe as YAML: what ``recipe.yaml`` in the run folder holds."""
    return dump_yaml(recipe.model_dump(mode="json"))


def dump_yaml(value: Any) -> str:
    """A value as YAML that readers of YAML 1.1 and of 1.2 read alike."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    pass


class _Loader(yaml.SafeLoader):
    """YAML 1.2 as JSON has its values: 12:30, 010, yes and 2024-01-01 are words, 1e5 is a number.

    A setting given twice is an error (the first one would be lost without a word), and so is a tag that is none of
    these values'.
    """

    aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > plain.MOST_ALIASES:
            raise yaml.YAMLError(f"more than {plain.MOST_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > plain.MOST_VALUES:
            raise yaml.YAMLError("merged sections become too large")


_Loader.yaml_implicit_resolvers = {}
_NUMBER = r"(?:0|[1-9][0-9]*)"
for _tag, _form, _first in (
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", "true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", f"[-+]?{_NUMBER}", list("-+0123456789")),
    ("float", rf"[-+]?(?:\.[0-9]+|{_NUMBER}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
     list("-+.0123456789")),
    ("merge", "<<", ["<"]),
):  # fmt: skip
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_form})\\Z"), _first)
_Loader.yaml_constructors = {
    tag: made for tag, made in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in {"null", "bool", "int", "float", "str", "seq", "map"}
}  # fmt: skip


def read_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text; RecipeError if it is none."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as error:
        fault = " ".join(str(error).replace('in "<unicode string>", ', "at ").split())
        raise RecipeError(f"{where}: not valid YAML: {fault}.") from None


def read(path: Path) -> dict[str, Any]:
    """The settings in a recipe file, unchecked.

    Raises:
        RecipeError: the file is missing, is not YAML, or is no mapping of settings.
    """
    path = path if path.is_file() else recipe_file(path)
    try:
        with path.open("rb") as file:
            content = file.read(plain.MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"{path}: cannot be read ({reason}). Expected a YAML text file.") from None
    if len(content) > plain.MOST_BYTES:
        raise RecipeError(f"{path}: more than {plain.MOST_BYTES // 1024} KiB. Expected a recipe, of some kilobytes.")
    raw = read_yaml(text, where=str(path)) or {}
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: expected a mapping of settings, got {type(raw).__name__}.")
    return raw


def apply_override(raw: dict[str, Any], override: str) -> tuple[str, Any]:
    """Set one dotted key in place, ``finetune.lora.rank=8``, and return it and its value, which is read as YAML.

    What is missing on the way is made, and a plug-in given by its bare name becomes ``{name: ...}`` to hold settings.
    """
    key, sign, text = override.partition("=")
    key = key.strip()
    if not sign or not key:
        raise RecipeError(f"--set {override}: expected key=value, e.g. --set finetune.epochs=3.")
    value = read_yaml(text, where=f"--set {override}")
    check_plain(value, f"--set {key}")
    put(raw, key, value, where=f"--set {override}")
    return key, value


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
