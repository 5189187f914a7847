"""How many questions a recipe will train on and ask, and how long they are.

Nothing is made for this: the counts are those of the benchmark, which the built-in sources and question writer keep
to (15.4 training questions a person and modality, 18 evaluation questions a person and variant).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mllmu.config.recipe import Recipe
from mllmu.core import plugins
from mllmu.core.records import Split

PUBLISHED_PEOPLE = 500
CELEBRITIES = 153
TRAINED_PER_PERSON = 15.4
ASKED_PER_PERSON = {"classification": 10, "generation": 4, "cloze": 4}
CANDIDATES = {"classification": 4, "generation": 5, "cloze": 4}
QUESTION_TOKENS = {"question": 10, "classification": 45, "generation": 12, "cloze": 28}
REPLY_TOKENS = {"classification": 2, "generation": 13, "cloze": 5}
TRAINED_REPLY_TOKENS = 12
TEMPLATE_TOKENS = 12


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Counts of one recipe.

    Attributes:
        people: who is taught.
        forgotten: people to forget, one number per forget ratio.
        trained: training questions per person and modality.
        asked: people asked per set, one mapping per forget ratio.
    """

    people: int
    forgotten: tuple[int, ...]
    trained: float
    asked: tuple[dict[Split, int], ...]

    def training_questions(self, people: int, modality: str) -> int:
        """Questions about so many people in one modality or both."""
        return round(people * self.trained * (2 if modality == "both" else 1))


def of_recipe(recipe: Recipe) -> Workload:
    """Count what the settings imply."""
    section = recipe.data
    people = _size(section.source, "sources", PUBLISHED_PEOPLE)
    celebrities = _size(section.celebrities, "sources", CELEBRITIES) if section.celebrities else 0
    forgotten = tuple(max(1, round(ratio * people)) for ratio in section.splits.forget_ratios)
    # published text is taught as it is, in one wording
    wordings = section.train_wordings if section.source.name == "synthetic" else 1
    return Workload(
        people=people,
        forgotten=forgotten,
        trained=TRAINED_PER_PERSON * wordings * len(section.train_formats),
        asked=tuple(_asked(recipe, people, count, celebrities) for count in forgotten),
    )


def _size(spec: Any, kind: str, published: int) -> int:
    """People of a source: its setting ``num_people``, the setting's default, or the published number."""
    if spec.settings.get("num_people"):
        return int(spec.settings["num_people"])
    field = plugins.find(kind, spec.name).model_fields.get("num_people")
    return int(field.default) if field is not None and isinstance(field.default, int) else published


def _asked(recipe: Recipe, people: int, forgotten: int, celebrities: int) -> dict[Split, int]:
    everyone: dict[Split, int] = {
        "forget": forgotten,
        "test": forgotten,
        "retain": people - forgotten,
        "celebrity": celebrities,
        "holdout": recipe.data.splits.holdout,
    }
    most = recipe.evaluate.max_profiles
    return {split: min(everyone[split], most.get(split, everyone[split])) for split in everyone}
