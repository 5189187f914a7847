"""Linear probes on questions: can a value of an attribute be read from a layer, for people the probe never saw?

The probe is trained on people that stay and tested on those to forget, so it cannot remember a face; its control is
trained on the same states with the values shuffled among the people.

Shapes: L layers, N questions, B questions of a batch, D and E hidden sizes, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mllmu.core.records import Modality, Question
from mllmu.core.seeding import rng
from mllmu.data.dataset import Dataset
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.studies.layers.measure import batches, hidden_states
from mllmu.training.batches import training_turns

MIN_PEOPLE = 5
"""A value counts as a class if at least so many people that stay have it."""


@dataclass(frozen=True)
class AttributeProbe:
    """One attribute: a question about it per person, the person's class, and whether it is in the test set."""

    attribute: str
    turns: list[Turn]
    classes: list[int]
    tested: list[bool]


def attribute_probes(dataset: Dataset, key: str, modality: Modality) -> list[AttributeProbe]:
    """The attributes with at least two classes, of which people to forget have at least one."""
    forget, first = set(dataset.splits[key]), _first_questions(dataset, modality)
    probes = []
    for attribute in sorted({attribute for _, attribute in first}):
        questions = [question for (_, about), question in first.items() if about == attribute]
        counts = Counter(q.value for q in questions if q.profile_id not in forget)
        values = sorted(value for value, count in counts.items() if count >= MIN_PEOPLE)
        questions = [q for q in questions if q.value in values]
        tested = [q.profile_id in forget for q in questions]
        if len(values) > 1 and any(tested):
            turns = training_turns(questions, dataset.folder / "images", modality=modality)
            probes.append(AttributeProbe(attribute, turns, [values.index(q.value) for q in questions], tested))
    return probes


def _first_questions(dataset: Dataset, modality: Modality) -> dict[tuple[str, str], Question]:
    """The first plain training question about each attribute of each person."""
    first: dict[tuple[str, str], Question] = {}
    people = set(dataset.people)
    for question in dataset.questions:
        plain = question.variant == "train" and question.task == "generation" and question.modality == modality
        if plain and question.profile_id in people:
            first.setdefault((question.profile_id, question.attribute), question)
    return first


def mean_accuracy(
    loaded: Loaded, probes: Sequence[AttributeProbe], system_prompt: str, *, batch_size: int, seed: int
) -> list[tuple[float, float]]:
    """Accuracy of probe and control per layer, averaged over the attributes; empty without attributes."""
    by_probe = [_accuracies(loaded, probe, system_prompt, batch_size, seed) for probe in probes]
    layers = zip(*by_probe, strict=True)
    return [(sum(p for p, _ in layer) / len(layer), sum(c for _, c in layer) / len(layer)) for layer in layers]


def _accuracies(
    loaded: Loaded, probe: AttributeProbe, system_prompt: str, batch_size: int, seed: int
) -> list[tuple[float, float]]:
    """Accuracy of a probe and its control on the people to forget, per layer."""
    states_LND = _states_before_reply(loaded, probe.turns, system_prompt, batch_size).double().cpu()
    classes_N, tested_N = torch.tensor(probe.classes), torch.tensor(probe.tested)
    train_N = classes_N[~tested_N]
    shuffled = train_N.tolist()
    rng(seed, "control", probe.attribute).shuffle(shuffled)
    accuracies = []
    for x_ND in states_LND:
        train_ND, test_ND, test_N = x_ND[~tested_N], x_ND[tested_N], classes_N[tested_N]
        control = ridge_accuracy(train_ND, torch.tensor(shuffled), test_ND, test_N)
        accuracies.append((ridge_accuracy(train_ND, train_N, test_ND, test_N), control))
    return accuracies


def _states_before_reply(loaded: Loaded, turns: Sequence[Turn], system_prompt: str, batch_size: int) -> Tensor:
    """[L, N, D] states from which the first token of each reply is predicted."""
    rows: list[Tensor] = []
    for index, batch in enumerate(batches(loaded, turns, system_prompt, batch_size)):
        lengths = [len(loaded.encoder.reply(turn.reply)) for turn in turns[index * batch_size :][:batch_size]]
        firsts = [sum(lengths[:row]) for row in range(len(lengths))]
        rows.append(torch.stack(hidden_states(loaded.model, batch))[:, firsts])
    return torch.cat(rows, dim=1)


def ridge_accuracy(train_ND: Tensor, train_N: Tensor, test_ND: Tensor, test_N: Tensor, *, ridge: float = 1.0) -> float:
    """Accuracy on ``test`` of a linear classifier of ``train``: ridge regression on one-hot classes, in closed form.

    Features are standardised by the training rows. Nothing is random and nothing is tuned.
    """
    classes = int(train_N.max()) + 1
    mean_D, std_D = train_ND.mean(0), train_ND.std(0).clamp(min=1e-6)
    x_ND = _with_constant((train_ND - mean_D) / std_D)
    y_NC = torch.eye(classes, dtype=x_ND.dtype)[train_N]
    penalty_EE = ridge * len(x_ND) * torch.eye(x_ND.shape[1], dtype=x_ND.dtype) / x_ND.shape[1]
    weights_EC = torch.linalg.solve(x_ND.T @ x_ND + penalty_EE, x_ND.T @ y_NC)
    chosen_N = (_with_constant((test_ND - mean_D) / std_D) @ weights_EC).argmax(1)
    return float((chosen_N == test_N).double().mean())


def _with_constant(x_ND: Tensor) -> Tensor:
    return torch.cat([x_ND, torch.ones(len(x_ND), 1, dtype=x_ND.dtype)], dim=1)
