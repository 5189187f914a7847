"""Odd values for every setting there is, of the recipe and of every plug-in, as ``--set`` gives them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import mutators
from pydantic import BaseModel
from rounds import Fuzz

from mllmu.config.load import apply_override, parse
from mllmu.config.recipe import Recipe
from mllmu.core import plugins

PLACES = {
    "sources": "data.source",
    "portraits": "data.portraits",
    "questions": "data.questions",
    "methods": "unlearn.methods.0",
    "judges": "evaluate.judges.0",
    "benchmarks": "evaluate.benchmarks.0",
}
"""Where a recipe names plug-ins with settings."""


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings of a section and the sections in it."""
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from settings_of(part, f"{prefix}{name}.")


def test_every_setting_of_a_recipe(fuzz: Fuzz) -> None:
    names = sorted(settings_of(Recipe))
    for rng in fuzz.rounds(5):
        change = f"{rng.choice(names)}={written(mutators.value(rng))}"
        raw: dict[str, Any] = {"name": "x", "unlearn": {"methods": ["npo"]}}
        with fuzz.attempt(change):
            apply_override(raw, change)
            parse(raw)


def test_every_setting_of_every_plug_in(fuzz: Fuzz) -> None:
    names = [
        (kind, name, setting)
        for kind in PLACES
        for name in plugins.names(kind)
        for setting in plugins.find(kind, name).model_fields
    ]
    for rng in fuzz.rounds(5):
        kind, name, setting = rng.choice(names)
        raw: dict[str, Any] = {"name": "x", "unlearn": {"methods": ["npo"]}}
        raw["evaluate"] = {"judges": ["rule"], "benchmarks": ["mmmu"]}
        changes = (f"{PLACES[kind]}={name}", f"{PLACES[kind]}.{setting}={written(mutators.value(rng))}")
        with fuzz.attempt(changes):
            for change in changes:
                apply_override(raw, change)
            parse(raw)


def written(value: Any) -> str:
    """A value as a user could write it behind ``=``: bare words as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
