"""Every number that can be set, of the recipe and of every plug-in, has both bounds and refuses what is no number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mllmu.config.protocol import Protocol
from mllmu.config.recipe import Recipe
from mllmu.core import plugins

KINDS = (
    "attacks",
    "methods",
    "metrics",
    "summaries",
    "tasks",
    "sources",
    "portraits",
    "questions",
    "judges",
    "benchmarks",
)


def models(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A section and all sections in it."""
    yield cls
    for field in cls.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from models(part)


def limits(field: FieldInfo) -> list[Any]:
    """What bounds a setting, also inside of ``Annotated[int, ...] | Literal["auto"]``."""
    inside = [one for part in get_args(field.annotation) for one in getattr(part, "__metadata__", ())]
    return [*field.metadata, *(limit for one in inside for limit in getattr(one, "metadata", [one]))]


LISTS = {"forget_ratios", "max_profiles", "test_image", "shots", "shares"}
"""Lists, and indices into what there is."""
SECTIONS = list(
    dict.fromkeys([*models(Recipe), Protocol, *(plugins.find(k, n) for k in KINDS for n in plugins.names(k))])
)
NUMBERS = [
    (cls, name)
    for cls in SECTIONS
    for name, field in cls.model_fields.items()
    if {int, float} & plugins.types_in(field.annotation) and bool not in plugins.types_in(field.annotation)
]


def test_every_number_has_bounds() -> None:
    for cls, name in NUMBERS:
        found = limits(cls.model_fields[name])
        given = {sign for one in found for sign in ("gt", "ge", "lt", "le") if hasattr(one, sign)}
        assert name in LISTS or (given & {"gt", "ge"} and given & {"lt", "le"}), f"{cls.__name__}.{name}"


@pytest.mark.parametrize("value", [True, False, [True], float("inf"), float("nan"), "twelve", [{}]])
def test_what_is_no_number_is_refused(value: object) -> None:
    assert len(NUMBERS) > 100
    for cls, name in NUMBERS:
        with pytest.raises(ValidationError) as caught:
            cls(**{name: value})
        assert [fault for fault in caught.value.errors() if name in fault["loc"]], f"{cls.__name__}.{name}"
