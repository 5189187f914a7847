"""A linear classifier on hidden states."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mllmu.core.process import rng
from mllmu.core.records import MODALITIES
from mllmu.evaluation.attacks import Attack, AttackPoint, Loaded, NotAttackableError, Victim
from mllmu.evaluation.inside import AttributeProbe, attribute_probes, ridge_choices, states_before_reply


class LinearProbe(Attack):
    """Train a linear probe for an attribute on retained people's states, and read forgotten people's states with it.

    score of a question = 1 if the probe names the right value of its attribute. No person is in both sets, so no face
    is remembered. The layer is the one that reads best among the retained people, each half by the other. Before: the
    control, a probe of the same layer trained with the values shuffled among the people. Only attributes of which at
    least two values are shared by five retained people can be probed.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/1909.03368"
    label = "Linear probe"
    family = "inside"
    access = "white box"
    asks = False

    def attack(self, victim: Victim) -> list[AttackPoint]:
        asked = {(sample.modality, sample.attribute) for sample in victim.samples}
        loaded, read, control = None, dict[str, float](), dict[str, float]()
        for modality in MODALITIES:
            for probe in attribute_probes(victim.data, victim.key, modality):
                if (modality, probe.attribute) not in asked:
                    continue
                loaded = loaded or victim.load(victim.ref)
                for person, right, by_chance in probed(loaded, probe, victim):
                    names = [
                        s.id
                        for s in victim.samples
                        if (s.profile_id, s.attribute, s.modality) == (person, probe.attribute, modality)
                    ]
                    read |= dict.fromkeys(names, right)
                    control |= dict.fromkeys(names, by_chance)
        if not read:
            raise NotAttackableError("no attribute that is asked for has two values that five retained people share")
        return [AttackPoint(values=read, before=control)]


def probed(loaded: Loaded, probe: AttributeProbe, victim: Victim) -> list[tuple[str, float, float]]:
    """Person, and whether the probe and its control name the right value, for the people to forget."""
    size = victim.recipe.evaluate.planned_batch_size
    states_LND = states_before_reply(loaded, probe.turns, victim.ref.system_prompt, size).double().cpu()
    classes_N, tested_N = torch.tensor(probe.classes), torch.tensor(probe.tested)
    train_N, test_N = classes_N[~tested_N], classes_N[tested_N]
    layer = max(range(len(states_LND)), key=lambda number: between_halves(states_LND[number][~tested_N], train_N))
    train_ND, test_ND = states_LND[layer][~tested_N], states_LND[layer][tested_N]
    shuffled: list[int] = train_N.tolist()
    rng(victim.seed, "control", probe.attribute).shuffle(shuffled)
    read_N, control_N = (ridge_choices(train_ND, labels, test_ND) for labels in (train_N, torch.tensor(shuffled)))
    people: Sequence[str] = [turn.person for turn, tested in zip(probe.turns, probe.tested, strict=True) if tested]
    rights = ((found == test_N).double().tolist() for found in (read_N, control_N))
    return list(zip(people, *rights, strict=True))


def between_halves(states_ND: Tensor, classes_N: Tensor) -> float:
    """Accuracy on every second row of a probe trained on the others, and the other way round; both halves together."""
    even_N = torch.arange(len(classes_N)) % 2 == 0
    right = 0
    for train_N in (even_N, ~even_N):
        found_N = ridge_choices(states_ND[train_N], classes_N[train_N], states_ND[~train_N])
        right += int((found_N == classes_N[~train_N]).sum())
    return right / len(classes_N)
