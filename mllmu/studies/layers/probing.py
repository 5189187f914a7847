"""Linear probes on questions: can a value of an attribute be read from a layer, for people the probe never saw?

The probe is trained on people that stay and tested on those to forget, so it cannot remember a face; its control is
trained on the same states with the values shuffled among the people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mllmu.core.records import Modality, Question
from mllmu.core.seeding import rng
from mllmu.data.dataset import Dataset
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.studies.layers.layers import hidden_states
from mllmu.studies.layers.numbers import probe
from mllmu.training.batching import training_turns

MIN_PEOPLE = 5
"""A value counts as a class if at least so many people that stay have it."""


@dataclass(frozen=True)
class Probe:
    """One attribute: the questions about it, who is asked, and the class of every person."""

    attribute: str
    turns: list[Turn]
    classes: list[int]
    tested: list[bool]


def probes(dataset: Dataset, key: str, modality: Modality) -> list[Probe]:
    """The attributes with at least two classes that people to forget belong to as well."""
    forgotten, first = set(dataset.splits[key]), _first_questions(dataset, modality)
    found = []
    for attribute in sorted({attribute for _, attribute in first}):
        asked = [question for (_, about), question in first.items() if about == attribute]
        counts = Counter(q.value for q in asked if q.profile_id not in forgotten)
        values = sorted(value for value, count in counts.items() if count >= MIN_PEOPLE)
        asked = [q for q in asked if q.value in values]
        tested = [q.profile_id in forgotten for q in asked]
        if len(values) > 1 and any(tested):
            turns = training_turns(asked, dataset.folder / "images", modality=modality)
            found.append(Probe(attribute, turns, [values.index(q.value) for q in asked], tested))
    return found


def _first_questions(dataset: Dataset, modality: Modality) -> dict[tuple[str, str], Question]:
    """The first plain training question about each attribute of each person."""
    first: dict[tuple[str, str], Question] = {}
    people = set(dataset.people)
    for question in dataset.questions:
        plain = question.variant == "train" and question.task == "generation" and question.modality == modality
        if plain and question.profile_id in people:
            first.setdefault((question.profile_id, question.attribute), question)
    return first


def run_probe(
    loaded: Loaded, asked: Probe, system_prompt: str, *, batch_size: int, seed: int
) -> list[tuple[float, float]]:
    """Accuracy on the people to forget, and of the control, for every layer; read where the reply begins."""
    rows: list[torch.Tensor] = []
    for start in range(0, len(asked.turns), batch_size):
        rows.append(_first_states(loaded, asked.turns[start : start + batch_size], system_prompt))
    states_LND = torch.cat(rows, dim=1).double().cpu()
    classes_N, tested_N = torch.tensor(asked.classes), torch.tensor(asked.tested)
    shuffled = classes_N[~tested_N].tolist()
    rng(seed, "control", asked.attribute).shuffle(shuffled)
    labels = {"probe": classes_N[~tested_N], "control": torch.tensor(shuffled)}
    return [
        (scores["probe"], scores["control"])
        for x_ND in states_LND
        for scores in [
            {name: probe(x_ND[~tested_N], y, x_ND[tested_N], classes_N[tested_N]) for name, y in labels.items()}
        ]
    ]


def _first_states(loaded: Loaded, turns: Sequence[Turn], system_prompt: str) -> torch.Tensor:
    """[L, B, D] states from which the first token of each reply is predicted."""
    rows = [Turn(prompt=turn.prompt, reply=turn.reply, image=turn.image, system=system_prompt) for turn in turns]
    batch = loaded.encoder.batch(rows).to(loaded.device)
    states_LND = torch.stack(hidden_states(loaded.model, batch))
    lengths = [len(loaded.encoder.reply(turn.reply)) for turn in rows]
    firsts = [sum(lengths[:row]) for row in range(len(lengths))]
    return states_LND[:, firsts]
