"""What is measured on a model before it is trained: hidden states, gates that tell people apart by them, and which
weights matter for what is to be forgotten or kept.

Shapes: N tokens, D hidden size, R groups.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mllmu.config.recipe import Lora
from mllmu.core import process
from mllmu.core.errors import DataError
from mllmu.core.process import derive, rng
from mllmu.models.encoding import grouped
from mllmu.models.engine.forward import Forward
from mllmu.models.families import IGNORE, Batch, Turn, num_layers
from mllmu.models.gate import Gate
from mllmu.models.labels import label_everything
from mllmu.models.layers import run_hidden
from mllmu.models.loading import Loaded
from mllmu.models.modifiers import Modifier
from mllmu.training.distributed import agree, gradients
from mllmu.training.loop import Training
from mllmu.unlearning.base import Method, layer_at, turn_key

SideName = Literal["forget", "retain"]
MOST_TURNS = 256
"""Turns that are measured of a side, or of each group of a gate; more would only fill memory."""
BATCH_SIZE = 32
"""Turns per pass."""
FOLDS = 3
"""Parts of the facts, each of which is left out once when a gate is judged."""
TurnStates = tuple[Tensor, Tensor]
"""Hidden states [N, D] of one question: of its prompt, and of its reply."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The untouched model and both sides of the data.

    Attributes:
        lora: size of adapters in this run, if it has any.
    """

    loaded: Loaded
    forget: Sequence[Turn]
    retain: Sequence[Turn]
    lora: Lora | None
    seed: int

    def layer(self, depth: float) -> int:
        """Index of the layer at a depth; see :func:`mllmu.unlearning.base.layer_at`."""
        return layer_at(depth, num_layers(self.loaded.model))

    def people(self) -> list[list[Turn]]:
        """The forget turns of each person, in the order of the data."""
        return list(grouped(self.forget, lambda turn: turn.person).values())

    def gate(self, groups: Sequence[Sequence[Turn]], layer: int, *, false_alarms: float) -> tuple[Gate, Tensor]:
        """A gate that tells groups of forget questions from the retained ones, and its confusion [R + 1, R + 1].

        The directions are fitted to the last prompt tokens, where a reply begins. All thresholds together are passed
        by about the share ``false_alarms`` of the retained *questions*, at any of their tokens.
        Row r of the confusion is the share of a group's questions sent to each group, last column: to none; the last
        row is that of the retained people; see :func:`out_of_sample`.

        At most 256 questions of each group are measured, and 256 retained ones. Until the gate is judged, the hidden
        states of all their tokens are in the host's memory, 4 D bytes a token: about 10 MB a question with 576 image
        tokens at D = 4096.
        """
        chosen = [self.some(turns) for turns in (*groups, self.retain)]
        states = [self.hidden_states(turns, layer) for turns in chosen]
        facts = [[turn.topic or turn.prompt for turn in turns] for turns in chosen]
        return set_gate(states, false_alarms).to(self.loaded.device), out_of_sample(states, facts, false_alarms)

    @torch.no_grad()
    def hidden_states(self, turns: Sequence[Turn], layer: int) -> list[TurnStates]:
        """For each turn the hidden states [N, D] behind a layer at its prompt, image included, and at its reply.

        The last of the prompt is where the first token of the reply is predicted. On CPU.
        """
        states: dict[int, TurnStates] = {}
        for indices, plain in self.batches(turns):
            batch = label_everything(plain, image_token_id=-1)
            hidden_ND = run_hidden(self.loaded.model, batch, layer).cpu()
            counts = (batch.labels[:, 1:] != IGNORE).sum(1).tolist()
            for index, part_ND in zip(indices, hidden_ND.split(counts), strict=True):
                end = len(part_ND) - len(self.loaded.encoder.reply(turns[index].reply)) + 1
                states[index] = (part_ND[:end], part_ND[end:])
        return [states[index] for index in range(len(turns))]

    def some(self, turns: Sequence[Turn]) -> list[Turn]:
        """The turns that are measured, drawn by the seed.

        Raises:
            DataError: there are none.
        """
        if not turns:
            raise DataError("nothing to measure: a side of the data is empty.")
        return sorted(turns, key=lambda turn: rng(self.seed, "probe", *turn_key(turn)).random())[:MOST_TURNS]

    def batches(self, turns: Sequence[Turn]) -> Iterator[tuple[list[int], Batch]]:
        """Plain batches of turns whose prompts are about as long, with the index of the turn of each row."""
        ordered = sorted(range(len(turns)), key=lambda index: len(turns[index].prompt))
        for start in range(0, len(ordered), BATCH_SIZE):
            indices = ordered[start : start + BATCH_SIZE]
            yield indices, self.loaded.encoder.batch([turns[index] for index in indices]).to(self.loaded.device)


def set_gate(states: Sequence[Sequence[TurnStates]], false_alarms: float) -> Gate:
    """A gate fitted to the questions of R groups and, last, the retained ones, with its thresholds."""
    *group_NDs, kept_ND = [torch.stack([prompt_ND[-1] for prompt_ND, _ in of_group]) for of_group in states]
    whole = [torch.cat(parts) for parts in states[-1]]
    gate = fit_gate(group_NDs, kept_ND, torch.cat(whole))
    highest = torch.stack([gate.score(turn_ND).amax(0) for turn_ND in whole]).sort(0).values
    gate.threshold_R = highest[min(len(whole) - 1, int((1 - false_alarms / len(group_NDs)) * len(whole)))]
    return gate


def out_of_sample(
    states: Sequence[Sequence[TurnStates]], facts: Sequence[Sequence[str]], false_alarms: float
) -> Tensor:
    """Where the questions of each group are sent by gates that were fitted without all questions about these facts.

    The facts are dealt into three parts, and each part is sent by a gate fitted to the other two. So a gate is judged
    by what it makes of other questions about the people it was fitted to, which is what it meets in use.

    Args:
        states: of the questions of R groups and, last, of the retained ones.
        facts: for each question what it asks for, so that wordings of one question stay together.

    Returns:
        Shares [R + 1, R + 1], a row per group, last column: to none. NaN in the row of a group that could not be
        measured, as it has questions about one fact alone.
    """
    number = len(states) - 1
    part = {fact: index % FOLDS for index, fact in enumerate(dict.fromkeys(fact for of in facts for fact in of))}
    counts = torch.zeros(number + 1, number + 1)
    for fold in range(FOLDS):
        inside = [[part[fact] == fold for fact in of] for of in facts]
        fitted = [
            [s for s, left in zip(of, out, strict=True) if not left] for of, out in zip(states, inside, strict=True)
        ]
        if not all(fitted):
            continue
        gate = set_gate(fitted, false_alarms)
        for row, (of_group, out) in enumerate(zip(states, inside, strict=True)):
            for prompt_ND, _ in (state for state, left in zip(of_group, out, strict=True) if left):
                best_R = gate.score(prompt_ND).amax(0)
                counts[row, int(best_R.argmax()) if best_R.max() > 0 else number] += 1
    return counts / counts.sum(1, keepdim=True)


def measured_facts(**shares: float) -> dict[str, float]:
    """Facts about a modifier for its file: rounded, and without those that could not be measured."""
    return {name: round(share, 4) for name, share in shares.items() if math.isfinite(share)}


def fit_gate(group_NDs: Sequence[Tensor], kept_ND: Tensor, background_ND: Tensor, *, ridge: float = 0.01) -> Gate:
    """Linear discriminants of R groups against the kept one: w_r = S^-1 (mean of group r - mean of the kept).

    S is the covariance within the groups plus that of the background (what a gate must not mistake for a group), plus
    ``ridge`` times its mean diagonal. Scores are in standard deviations of the background; thresholds are 0.
    """
    groups = [group.double() for group in (*group_NDs, kept_ND)]
    size = kept_ND.shape[1]
    within_DD = torch.cat([group - group.mean(0) for group in groups])
    within_DD = within_DD.T @ within_DD / len(within_DD) + torch.cov(background_ND.double().T, correction=0)
    within_DD += torch.eye(size).double() * (ridge * within_DD.diagonal().mean() + 1e-12)
    apart_RD = torch.stack([group.mean(0) - groups[-1].mean(0) for group in groups[:-1]])
    gate_RD = torch.linalg.solve(within_DD, apart_RD.T).T
    spread_R = (background_ND.double() @ gate_RD.T).std(0, correction=0).clamp(min=1e-12)
    return Gate(gate_RD / spread_R[:, None], torch.zeros(len(group_NDs)))


def seeded_normal(seed: int, name: str, shape: tuple[int, ...], *, scale: float) -> Tensor:
    """Random normal numbers that depend on seed and name alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(derive(seed, "modifier", name))) * scale


def make_modifier(
    loaded: Loaded, method: Method, forget: Sequence[Turn], retain: Sequence[Turn], training: Training
) -> Modifier:
    """Measure a model and make a method's modifier, which acts on the model from now on if it is to be trained."""
    loaded.model.requires_grad_(requires_grad=False)
    loaded.model.eval()
    training.progress.start(f"{training.label}: measuring", 1)
    seed = derive(training.seed, "adapter")
    probe = Probe(loaded=loaded, forget=forget, retain=retain, lora=training.lora, seed=seed)
    modifier = method.modifier(probe).to(loaded.device)
    if process.count() > 1:
        agree(list(modifier.tensors().values()))
    training.progress.finish()
    if method.trains:
        modifier.attach(loaded.model)
    return modifier


@dataclass(frozen=True)
class Saliency:
    """Gradients at the start of training, averaged over all replies of a side; they do not depend on the batch size.

    With adapters one of the two factors starts at zero, so only the other has a gradient; where there is none,
    everything measured here is 0.

    Attributes:
        weights: the trainable weights.
        turns: of each side.
        batch_size: turns that fit into one pass.
        run: one pass over some of them, with gradient and without dropout.
    """

    weights: Sequence[Tensor]
    turns: Mapping[SideName, Sequence[Turn]]
    batch_size: int
    run: Callable[[Sequence[Turn]], Forward]

    def gradient(self, side: SideName) -> list[Tensor]:
        """Mean over replies of the gradient of the nll, like the weights, in nats per token and unit of weight."""
        return self._mean(side, self.batch_size, lambda gradient: gradient)

    def fisher(self, side: SideName) -> list[Tensor]:
        """Diagonal of the empirical Fisher information: the mean over replies of the squared gradient, >= 0.

        Each reply is run alone: the square of a batch's mean gradient would be smaller, the larger the batch.
        """
        return self._mean(side, 1, torch.square)

    def _mean(self, side: SideName, at_once: int, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        turns = self.turns[side]
        if not turns:
            raise DataError(f"nothing on the {side} side to measure weights by.")
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in self.weights]
        for start in range(0, len(turns), at_once):
            nll = -self.run(turns[start : start + at_once]).mean_logp_B.sum()
            for total, gradient in zip(sums, gradients(nll, self.weights), strict=True):
                if gradient is not None:
                    total += of(gradient.float())
        return [total / len(turns) for total in sums]


def restrict(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """From now on drop the gradient where a mask is False; Adam without weight decay then leaves those entries be."""
    for weight, mask in zip(weights, masks, strict=True):
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)
