"""What is said of a setting that is wrong: where, what, got, expected, and the setting that may be meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mllmu.core.errors import did_you_mean
from mllmu.core.names import FOLDER_NAME

MAX_SHOWN = 100
"""Characters of a wrong value that an error message repeats."""


def explain(error: ValidationError, cls: type[BaseModel], *, where: str, owner: str = "") -> str:
    """Turn the most telling fault of a pydantic error into one sentence: where, what, got, expected, nearest match.

    Args:
        cls: the model that was checked; an unknown setting that another section in it has is named with that place.
        where: put right before the path of the setting, e.g. ``recipe.yaml: `` or ``unlearn.methods[2].``.
    """
    faults = error.errors(include_url=False)
    # a misspelt name is why another setting is missing, so it is told first
    fault = min(faults, key=lambda each: each["type"] != "extra_forbidden")
    place = (where + ".".join(map(str, fault["loc"]))).rstrip(".: ")
    if fault["type"] == "extra_forbidden":
        name, known = str(fault["loc"][-1]), list(_model_at(cls, fault["loc"][:-1]).model_fields)
        hint = _meant(name, known, [path for path in _paths(cls) if path.rpartition(".")[2] == name])
        return f"{place}: unknown setting{' ' + owner if owner else ''}.{hint} Settings: {', '.join(known) or 'none'}."
    said = fault["msg"].removeprefix("Value error, ")
    if fault.get("ctx", {}).get("pattern") == FOLDER_NAME:
        said = "no folder name: expected at most 64 letters, digits and _ . + -, first a letter, a digit or _"
    return f"{place}: {said} (got {_short(fault.get('input'))})."


def _meant(name: str, known: list[str], elsewhere: list[str]) -> str:
    """A setting of this section that the name abbreviates, one of this name elsewhere, or the nearest of this section.

    >>> _meant("lr", ["lora", "learning_rate"], []), _meant("epochs", ["methods"], ["finetune.epochs"])
    (" Did you mean 'learning_rate'?", " Did you mean 'finetune.epochs'?")
    """
    for word in known:
        if name.lower() == "".join(part[:1] for part in word.split("_")) != word:
            return f" Did you mean '{word}'?"
    return f" Did you mean '{elsewhere[0]}'?" if elsewhere else did_you_mean(name, known)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."


def _paths(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a model and the models in it."""
    for name, field in cls.model_fields.items():
        yield prefix + name
        if inner := next(_models_in(field.annotation), None):
            yield from _paths(inner, f"{prefix}{name}.")


def _model_at(cls: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """Follow field names into nested models, also optional ones (``Lora | None``); stops at the last model met."""
    for key in path:
        field = cls.model_fields.get(str(key))
        cls = next(_models_in(field.annotation), cls) if field else cls
    return cls


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)
