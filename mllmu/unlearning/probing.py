"""What can be measured on a model before it is changed: hidden states, gates between people, activity of neurons.

Shapes: N tokens, D hidden size, F neurons of a layer, R requests.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllmu.config.recipe import Lora
from mllmu.core.errors import DataError, ModelError
from mllmu.core.seeding import derive, rng
from mllmu.models.engine.forward import label_everything, run_hidden
from mllmu.models.families import IGNORE, Turn
from mllmu.models.loading import Loaded
from mllmu.models.modifiers import Gate
from mllmu.models.parts import core, decoder_layers
from mllmu.unlearning.base import layer_at

MOST_TURNS = 256
"""Turns of a side that are looked at; more would only fill memory."""
NEURONS_LM = r".*(language_model|text_model).*\.mlp\.(down_proj|fc2)"
NEURONS_VISION = r".*(vision|visual).*\.mlp\.(fc2|down_proj|linear_fc2)"
"""Layers that read the neurons of an MLP."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The untouched model and both sides of the data.

    Attributes:
        lora: size of adapters in this run, if it has any.
        batch_size: turns a pass.
    """

    loaded: Loaded
    forget: Sequence[Turn]
    retain: Sequence[Turn]
    lora: Lora | None
    seed: int
    batch_size: int

    @property
    def num_layers(self) -> int:
        return len(decoder_layers(self.loaded.model))

    def layer(self, depth: float) -> int:
        """Index of the layer at a depth; see :func:`mllmu.unlearning.base.layer_at`."""
        return layer_at(depth, self.num_layers)

    def people(self) -> list[list[Turn]]:
        """The forget turns of each person, in the order of the data."""
        found: dict[str, list[Turn]] = {}
        for turn in self.forget:
            found.setdefault(turn.person, []).append(turn)
        return list(found.values())

    def gate(self, groups: Sequence[Sequence[Turn]], layer: int, *, false_alarms: float) -> tuple[Gate, Tensor]:
        """A gate that tells groups of forget questions from the retained ones, and its confusion [R + 1, R + 1].

        The directions are fitted to the last prompt tokens, where a reply begins. All thresholds together are passed
        by about the share ``false_alarms`` of the retained *questions*, at any of their tokens.
        Row r of the confusion is the share of a group's questions sent to each group, last column: to none; the last
        row is that of the retained people. It is measured on what the gate was fitted to.
        """
        places = [self.places(self._few(turns), layer) for turns in (*groups, self.retain)]
        *asked, kept_ND = [torch.stack([prompt_ND[-1] for prompt_ND, _ in of_turns]) for of_turns in places]
        whole = [torch.cat(parts) for parts in places[-1]]
        gate = fit_gate(asked, kept_ND, torch.cat(whole))
        kept = torch.stack([gate.score(place_ND).amax(0) for place_ND in whole]).sort(0).values
        gate.threshold_R = kept[min(len(kept) - 1, int((1 - false_alarms / len(groups)) * len(kept)))]
        rows = []
        for of_turns in places:
            best_NR = torch.stack([gate.score(prompt_ND).amax(0) for prompt_ND, _ in of_turns])
            sent = torch.where(best_NR.amax(-1) > 0, best_NR.argmax(-1), len(groups))
            rows.append(torch.bincount(sent, minlength=len(groups) + 1) / len(of_turns))
        return gate.to(self.loaded.device), torch.stack(rows)

    @torch.no_grad()
    def places(self, turns: Sequence[Turn], layer: int) -> list[tuple[Tensor, Tensor]]:
        """Of every turn the hidden states [N, D] behind a layer at its prompt, image included, and at its reply.

        The last of the prompt is where the first token of the reply is predicted. On CPU.
        """
        loaded, found = self.loaded, {}
        for rows in self._batches(range(len(turns)), key=lambda row: len(turns[row].prompt)):
            plain = loaded.encoder.batch([turns[row] for row in rows]).to(loaded.device)
            batch = label_everything(plain, image_token_id=None)
            hidden_ND = run_hidden(loaded.model, batch, layer).cpu()
            counts = (batch.labels[:, 1:] != IGNORE).sum(1).tolist()
            for row, part_ND in zip(rows, hidden_ND.split(counts), strict=True):
                end = len(part_ND) - len(loaded.encoder.reply(turns[row].reply)) + 1
                found[row] = (part_ND[:end], part_ND[end:])
        return [found[row] for row in range(len(turns))]

    @torch.no_grad()
    def importance(self, turns: Sequence[Turn], pattern: str) -> dict[str, Tensor]:
        """[F] importance of every neuron by the name of the layer that reads it; see :class:`Activity`."""
        modules = {n: m for n, m in core(self.loaded.model).named_modules() if re.fullmatch(pattern, n)}
        if not modules:
            raise ModelError(f"no layer of {type(self.loaded.model).__name__} is named like {pattern!r}.")
        activity = {name: Activity() for name in modules}
        with _watched(modules, activity) as mask:
            few = self._few(turns)
            for rows in self._batches(range(len(few)), key=lambda row: len(few[row].prompt)):
                plain = self.loaded.encoder.batch([few[row] for row in rows]).to(self.loaded.device)
                mask.append(plain.inputs["attention_mask"].bool())
                core(self.loaded.model).model(**plain.inputs, use_cache=False)
        return {name: seen.importance() for name, seen in activity.items()}

    def _few(self, turns: Sequence[Turn]) -> list[Turn]:
        if not turns:
            raise DataError("nothing to measure: a side of the data is empty.")
        return sorted(turns, key=lambda turn: self._draw("probe", turn).random())[:MOST_TURNS]

    def _batches(self, rows: Sequence[int], *, key: Callable[[int], int]) -> Iterator[Sequence[int]]:
        ordered = sorted(rows, key=key)
        for start in range(0, len(ordered), self.batch_size):
            yield ordered[start : start + self.batch_size]

    def _draw(self, what: str, turn: Turn) -> random.Random:
        return rng(self.seed, what, turn.person, turn.prompt, turn.image.name if turn.image else "")


class Activity:
    """Running statistics of the neurons of one layer.

    importance = mean |z| + share of z > 0 + variance of z + root of mean z^2, over all tokens seen

    For z = 1, -1: 1 + 0.5 + 1 + 1 = 3.5.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def add(self, z_NF: Tensor) -> None:
        """Count the activations of some tokens."""
        z_NF = z_NF.double()
        sums = [z_NF.abs().sum(0), (z_NF > 0).sum(0), z_NF.sum(0), z_NF.square().sum(0)]
        self.sums = [old + new for old, new in zip(self.sums, sums, strict=True)] if self.sums else sums
        self.count += len(z_NF)

    def importance(self) -> Tensor:
        """[F] in float64; all 0 for a layer that never ran."""
        if not self.count:
            return torch.zeros(0)
        size_F, active_F, mean_F, square_F = (total / self.count for total in self.sums)
        return (size_F + active_F + (square_F - mean_F.square()).clamp(min=0) + square_F.sqrt()).cpu()


@contextmanager
def _watched(modules: dict[str, Any], activity: dict[str, Activity]) -> Iterator[list[Tensor]]:
    """Feed what layers read to their statistics: real tokens in the language model, all patches of images."""
    mask: list[Tensor] = []

    def watch(name: str) -> Any:
        def seen(module: Any, args: Any) -> None:
            del module
            z = args[0]
            real = mask[-1] if z.shape[:2] == mask[-1].shape else torch.ones_like(z[..., 0], dtype=torch.bool)
            activity[name].add(z[real])

        return seen

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in modules.items()]
    try:
        yield mask
    finally:
        for handle in handles:
            handle.remove()


def fit_gate(asked: Sequence[Tensor], kept_ND: Tensor, background_ND: Tensor, *, ridge: float = 0.01) -> Gate:
    """Linear discriminants of R groups against the kept one: w_r = S^-1 (mean of group r - mean of the kept).

    S is the covariance within the groups plus that of the background (what a gate must not mistake for a group), plus
    ``ridge`` times its mean diagonal. Scores are in standard deviations of the background; thresholds are 0.
    """
    groups = [group.double() for group in (*asked, kept_ND)]
    size = kept_ND.shape[1]
    within_DD = torch.cat([group - group.mean(0) for group in groups])
    within_DD = within_DD.T @ within_DD / len(within_DD) + torch.cov(background_ND.double().T, correction=0)
    within_DD += torch.eye(size).double() * (ridge * within_DD.diagonal().mean() + 1e-12)
    apart_RD = torch.stack([group.mean(0) - groups[-1].mean(0) for group in groups[:-1]])
    gate_RD = torch.linalg.solve(within_DD, apart_RD.T).T
    spread_R = (background_ND.double() @ gate_RD.T).std(0, correction=0).clamp(min=1e-12)
    return Gate(gate_RD / spread_R[:, None], torch.zeros(len(asked)))


def seeded_normal(seed: int, name: str, shape: tuple[int, ...], *, scale: float) -> Tensor:
    """Random normal numbers that depend on seed and name alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(derive(seed, "modifier", name))) * scale
