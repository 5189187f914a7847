"""Settings as plain values: reading a recipe file, and changing one dotted key.

Checks only what YAML and the shape of the settings need; :mod:`mllmu.config.recipe` knows which settings there are.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import yaml

from mllmu.core.errors import RecipeError


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
        raise RecipeError(f"{where}: not valid YAML: {' '.join(str(error).split())}.") from None


def read(path: Path) -> dict[str, Any]:
    """The settings in a recipe file, unchecked.

    Raises:
        RecipeError: the file is missing, is not YAML, or is no mapping of settings.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe. Give the path of a YAML file, e.g. recipes/demo.yaml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({error}). Expected a YAML text file.") from None
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
