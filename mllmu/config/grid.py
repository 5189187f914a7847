"""The grid of a recipe file: which settings vary, and what a combination is named after."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

from mllmu.core.errors import RecipeError

GRID = "grid"


def combinations(axes: Any, changed: Mapping[str, Any], *, where: str) -> dict[str, dict[str, Any]]:
    """The values of every combination by its name, the last axis varying fastest.

    Args:
        axes: the value of ``grid``.
        changed: settings that ``--set`` has changed; one that varies has this value alone.

    Raises:
        RecipeError: the grid is not a mapping of settings to lists of values; two combinations have one name; or a part
            of a varied setting, or a section around it, was changed: one would undo the other.
    """
    axes = dict(_checked(axes, where))
    for key, value in changed.items():
        for axis in axes:
            if key == axis:
                axes[axis] = [value]
            elif f"{axis}.".startswith(f"{key}.") or f"{key}.".startswith(f"{axis}."):
                raise RecipeError(f"--set {key}: the grid varies '{axis}'. Set '{axis}' as a whole, or edit the grid.")
    found: dict[str, dict[str, Any]] = {}
    for values in itertools.product(*axes.values()):
        name = "_".join(map(name_of_value, values))
        if name in found:
            raise RecipeError(f"{where}: grid: two combinations are named '{name}'. Run them as recipes of their own.")
        found[name] = dict(zip(axes, values, strict=True))
    return found


def _checked(axes: Any, where: str) -> dict[str, list[Any]]:
    """The settings that a file varies, with their values; RecipeError if its grid is none."""
    if not isinstance(axes, dict) or not axes:
        raise RecipeError(
            f"{where}: grid: expected settings with their values, e.g. {{model.path: [a, b]}}, got {axes!r}."
        )
    for axis, values in axes.items():
        if not isinstance(axis, str) or axis in {"name", GRID}:
            raise RecipeError(f"{where}: grid: {axis!r} is no setting that can vary, e.g. model.path.")
        if not isinstance(values, list) or not values:
            raise RecipeError(f"{where}: grid: {axis}: expected a list of values, got {values!r}.")
    return axes


def name_of_value(value: Any) -> str:
    """A value as part of a folder name: the last part of a path, without what a folder name should not hold.

    >>> name_of_value("llava-hf/llava-1.5-7b-hf"), name_of_value(0.05), name_of_value([0.05, 0.1])
    ('llava-1.5-7b-hf', '0.05', '0.05-0.1')
    """
    text = value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else str(value)
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")[:64] or "value"
