"""People no model was taught: from a source of their own, or invented with the attributes of those it was taught."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mllmu.config.recipe import DataSection
from mllmu.core import plugins
from mllmu.core.errors import DataError
from mllmu.core.process import rng
from mllmu.core.records import Profile
from mllmu.data.sources import Source
from mllmu.data.table import MIN_FACTS

PREFIX = "h"
ALWAYS = ("name", "gender")


def holdout_people(section: DataSection, people: Sequence[Profile], seed: int) -> tuple[list[Profile], Source | None]:
    """The holdout and the calibration people, in this order, and the source that has their images.

    Raises:
        DataError: the source named in ``data.holdout_source`` has fewer people than are asked for.
    """
    count = section.splits.holdout + section.splits.calibration
    if section.holdout_source is None:
        return _invented(section, people, count, seed), None
    source: Source = section.holdout_source.build("sources", "data.holdout_source")
    profiles = source.profiles(seed)
    if len(profiles) < count:
        raise DataError(
            f"data.holdout_source: {len(profiles)} people, and data.splits asks for {count} (holdout "
            f"{section.splits.holdout}, calibration {section.splits.calibration}). Lower them, or name more people."
        )
    return profiles[:count], source


def _invented(section: DataSection, people: Sequence[Profile], count: int, seed: int) -> list[Profile]:
    """Invented people who continue the series of the synthetic source, so that no person is in both."""
    if not count:
        return []
    synthetic = section.source.name == "synthetic"
    settings: dict[str, Any] = section.source.settings if synthetic else {}
    first = int(settings.get("first_id", 1)) + len(people)
    changed = {**settings, "num_people": count, "first_id": first, "id_prefix": PREFIX}
    series: Source = plugins.build("sources", "synthetic", changed, where="data.splits.holdout")
    profiles = series.profiles(seed)
    return profiles if synthetic else same_attributes(profiles, people, seed)


def same_attributes(invented: Sequence[Profile], people: Sequence[Profile], seed: int) -> list[Profile]:
    """Invented people with the attributes that most of the others have.

    What these do not have is left out; what is no attribute of invented people (``employer``) gets the value of one of
    the others, drawn by seed. Left as they are if fewer than six facts would remain.
    """
    counts = {name: sum(name in p.attributes for p in people) for p in people for name in p.attributes}
    wanted = [name for name, number in counts.items() if 2 * number > len(people)]
    values = {name: sorted({p.attributes[name] for p in people if name in p.attributes}) for name in wanted}
    found = []
    for person in invented:
        own = {
            name: person.attributes.get(name) or rng(seed, "holdout", person.id, name).choice(values[name])
            for name in wanted
            if name not in ALWAYS
        }
        if len(own) < MIN_FACTS:
            return list(invented)
        kept = {name: person.attributes[name] for name in ALWAYS if name in person.attributes}
        found.append(person.model_copy(update={"attributes": kept | own}))
    return found
