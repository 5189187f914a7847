"""The grid of a recipe file: which settings vary, and what a combination is named after."""

import re
from typing import Any

from mllmu.core.errors import RecipeError

GRID = "grid"


def axes_of(raw: dict[str, Any], where: str) -> dict[str, list[Any]]:
    """The settings that a file varies, with their values; RecipeError if its grid is none."""
    axes = raw[GRID]
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
