"""What is measured on a model before it is trained: hidden states, gates that tell people apart by them, and which
weights matter for what is to be forgotten or kept.

Shapes: N tokens, D hidden size, R groups.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mllmu.config.recipe import Lora
from mllmu.core import process
from mllmu.core.errors import DataError
from mllmu.core.process import derive, rng
from mllmu.models.encoding import grouped
from mllmu.models.families import IGNORE, Batch, Turn, num_layers
from mllmu.models.layers import run_hidden
from mllmu.models.loading import Loaded
from mllmu.models.modifiers import Gate, Modifier
from mllmu.training.distributed import agree, gradients
from mllmu.training.loop import Training
from mllmu.unlearning.base import Method, layer_at, turn_key

SideName = Literal["forget", "retain"]
MOST_TURNS = 256
"""Turns of a side that are measured; more would only fill memory."""
BATCH_SIZE = 32
"""Turns per pass."""


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
        row is that of the retained people. It is measured on what the gate was fitted to.
        """
        states = [self.hidden_states(self.some(turns), layer) for turns in (*groups, self.retain)]
        *group_NDs, kept_ND = [torch.stack([prompt_ND[-1] for prompt_ND, _ in of_group]) for of_group in states]
        whole = [torch.cat(parts) for parts in states[-1]]
        gate = fit_gate(group_NDs, kept_ND, torch.cat(whole))
        highest = torch.stack([gate.score(turn_ND).amax(0) for turn_ND in whole]).sort(0).values
        gate.threshold_R = highest[min(len(whole) - 1, int((1 - false_alarms / len(groups)) * len(whole)))]
        rows = []
        for of_group in states:
            best_NR = torch.stack([gate.score(prompt_ND).amax(0) for prompt_ND, _ in of_group])
            sent = torch.where(best_NR.amax(-1) > 0, best_NR.argmax(-1), len(groups))
            rows.append(torch.bincount(sent, minlength=len(groups) + 1) / len(of_group))
        return gate.to(self.loaded.device), torch.stack(rows)

    @torch.no_grad()
    def hidden_states(self, turns: Sequence[Turn], layer: int) -> list[tuple[Tensor, Tensor]]:
        """For each turn the hidden states [N, D] behind a layer at its prompt, image included, and at its reply.

        The last of the prompt is where the first token of the reply is predicted. On CPU.
        """
        states: dict[int, tuple[Tensor, Tensor]] = {}
        for indices, plain in self.batches(turns):
            batch = plain.label_everything(image_token_id=-1)
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
    """Gradients at the start of training, averaged over all batches of a side.

    With adapters one of the two factors starts at zero, so only the other has a gradient; where there is none,
    everything measured here is 0.

    Attributes:
        weights: the trainable weights.
        losses: a side -> its nll, batch by batch, with gradient (mean over the tokens of a batch).
    """

    weights: Sequence[Tensor]
    losses: Callable[[SideName], Iterator[Tensor]]

    def gradient(self, side: SideName) -> list[Tensor]:
        """Mean gradient of the nll, like the weights, in nats per token and unit of weight."""
        return self._mean(side, lambda gradient: gradient)

    def fisher(self, side: SideName) -> list[Tensor]:
        """Diagonal of the empirical Fisher information: the mean over batches of the squared gradient, >= 0."""
        return self._mean(side, torch.square)

    def _mean(self, side: SideName, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in self.weights]
        count = 0
        for loss in self.losses(side):
            count += 1
            for total, gradient in zip(sums, gradients(loss, self.weights), strict=True):
                if gradient is not None:
                    total += of(gradient.float())
        return [total / count for total in sums]


def restrict(weights: Sequence[Tensor], masks: Sequence[Tensor]) -> None:
    """From now on drop the gradient where a mask is False; Adam without weight decay then leaves those entries be."""
    for weight, mask in zip(weights, masks, strict=True):
        weight.register_hook(lambda gradient, mask=mask: gradient * mask)
