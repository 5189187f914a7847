"""Which models a run compares, and what each is called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mllmu.config.load import expand_modalities
from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.names import BASELINES, RETAIN_MODEL, TARGET


@dataclass(frozen=True, kw_only=True)
class Job:
    """One unlearning method with its settings, and the name of the model it makes."""

    name: str
    spec: str
    settings: dict[str, Any]

    def method(self) -> Any:
        """The method itself."""
        return plugins.build("methods", self.spec, self.settings, where=f"unlearn.methods ({self.name})")


def jobs(recipe: Recipe) -> list[Job]:
    """One job per method entry and modality.

    A name is the method's, with the modality behind it if an entry lists several, and a number behind that if the
    name would occur twice: ``npo``, ``npo_text``, ``npo_2``.
    """
    found: list[Job] = []
    taken = {TARGET, RETAIN_MODEL, *BASELINES}
    for name, spec, settings in _entries(recipe):
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}_{count}"
        taken.add(unique)
        found.append(Job(name=unique, spec=spec, settings=settings))
    return found


def _entries(recipe: Recipe) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for spec in recipe.unlearn.methods:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", spec.name.rpartition(":")[2])
        for settings in expand_modalities(spec):
            several = isinstance(spec.settings.get("modality"), list)
            yield f"{name}_{settings['modality']}" if several else name, spec.name, settings
