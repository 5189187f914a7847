"""Several recipes in one file: ``grid: {model.path: [a, b], seed: [0, 1]}`` beside the settings they share.

Each combination is a recipe of its own, with a run folder of its own, named after the values. Nothing here knows which
settings there are: every combination is checked like any recipe, so an unknown key is found there.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from mllmu.config.settings import apply_override, put, read_yaml
from mllmu.core.errors import RecipeError

KEY = "grid"


def override(raw: dict[str, Any], overrides: Sequence[str], *, where: str) -> None:
    """Apply ``a.b=value`` changes in place; one of a setting in the grid leaves this value alone in the grid.

    Raises:
        RecipeError: a change of a part of a varied setting, or of a section around it: one would undo the other.
    """
    for change in overrides:
        apply_override(raw, change)
    for change in overrides if KEY in raw else ():
        key, _, text = change.partition("=")
        key = key.strip()
        for axis in _axes(raw, where):
            if key == axis:
                raw[KEY] = raw[KEY] | {axis: [read_yaml(text, where=f"--set {change}")]}
            elif f"{axis}.".startswith(f"{key}.") or f"{key}.".startswith(f"{axis}."):
                raise RecipeError(
                    f"--set {change}: the grid varies '{axis}'. Set '{axis}' as a whole, or edit the grid."
                )


def combinations(raw: dict[str, Any], *, where: str) -> dict[str, dict[str, Any]]:
    """The settings of every combination by its name, the last axis varying fastest.

    Raises:
        RecipeError: the grid is not a mapping of settings to lists of values, or two combinations have one name.
    """
    axes = _axes(raw, where)
    found: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*axes.values()):
        name = "_".join(map(name_of, values))
        if name in found:
            raise RecipeError(f"{where}: grid: two combinations are named '{name}'. Run them as recipes of their own.")
        one = deepcopy({key: value for key, value in raw.items() if key != KEY})
        for axis, value in zip(axes, values, strict=True):
            put(one, axis, deepcopy(value), where=f"{where}: grid: {axis}")
        found[name] = one
    return found


def name_of(value: Any) -> str:
    """A value as part of a folder name: the last part of a path, without what a folder name should not hold.

    >>> name_of("llava-hf/llava-1.5-7b-hf"), name_of(0.05), name_of([0.05, 0.1])
    ('llava-1.5-7b-hf', '0.05', '0.05-0.1')
    """
    text = value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else str(value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:64] or "value"


def _axes(raw: dict[str, Any], where: str) -> dict[str, list[Any]]:
    axes = raw[KEY]
    if not isinstance(axes, dict) or not axes:
        raise RecipeError(
            f"{where}: grid: expected settings with their values, e.g. {{model.path: [a, b]}}, got {axes!r}."
        )
    for axis, values in axes.items():
        if not isinstance(axis, str) or axis in {"name", KEY}:
            raise RecipeError(f"{where}: grid: {axis!r} is no setting that can vary, e.g. model.path.")
        if not isinstance(values, list) or not values:
            raise RecipeError(f"{where}: grid: {axis}: expected a list of values, got {values!r}.")
    return axes
