"""The sets that a request for some facts adds: what the same people keep, and what is forgotten asked through it."""

from dataclasses import replace
from typing import Any

from mllmu.config.recipe import Evaluate
from mllmu.core.records import Sample
from mllmu.data.dataset import Dataset
from mllmu.evaluation.samples import render

SPLIT = "forget"


def further_sets(dataset: Dataset, key: str, evaluate: Evaluate, **how: Any) -> list[Sample]:
    """The samples of the further sets, rendered as those of the forget set are; see :func:`render`."""
    gone = set(dataset.splits[key])
    others = [question for question in dataset.questions if question.profile_id not in gone]
    found: list[Sample] = []
    for split, questions in dataset.further.items():
        rendered = render(replace(dataset, questions=[*others, *questions], further={}), key, evaluate, **how)
        found += [
            sample.model_copy(update={"split": split, "id": f"{split}/{sample.question_id}"})
            for sample in rendered
            if sample.split == SPLIT
        ]
    return found
