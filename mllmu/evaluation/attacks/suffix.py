"""A suffix found by gradients that makes the model tell."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from mllmu.core.process import rng
from mllmu.evaluation.attacks import AttackPoint, Loaded, Turn, Victim, variant
from mllmu.evaluation.attacks._searching import Searching, halves, loss_of
from mllmu.models.families import core

START = "!"


class Suffix(Searching):
    """Search for one short suffix that makes the model tell known facts, and put it behind the questions on others.

    Greedy coordinate gradient: the gradient of the nll of the known answers in the embeddings of the suffix names the
    likeliest replacements; some of them are tried, and the best is kept if it lowers the nll. The people whose facts
    are known are not among those that are asked.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2307.15043"
    label = "Found suffix"
    family = "extraction"

    length: int = Field(4, ge=1, le=1000, description="tokens of the suffix at the beginning")
    candidates: int = Field(8, ge=1, le=100_000, description="replacements tried per iteration")

    def attack(self, victim: Victim) -> list[AttackPoint]:
        known, asked = halves(victim, victim.samples)
        loaded = victim.load(victim.ref)
        loaded.model.requires_grad_(requires_grad=False)
        search = SuffixSearch(loaded, victim.answered(known), seed=victim.seed)
        suffix = " ".join([START] * self.length)
        for number in range(self.number(victim)):
            suffix = search.better(suffix, self.candidates, number)
        samples = [variant(sample, 0, prompt=f"{sample.prompt} {suffix}") for sample in asked]
        return [AttackPoint(values=victim.hits(loaded, samples))]


class SuffixSearch:
    """Replaces one token of a suffix after the other.

    Args:
        loaded: the model, whose weights want no gradient.
        turns: questions with answers that are known.
        seed: draws the candidates.
    """

    def __init__(self, loaded: Loaded, turns: Sequence[Turn], *, seed: int) -> None:
        self.loaded, self.turns, self.seed = loaded, turns, seed
        self.tokenizer: Any = loaded.encoder.processor.tokenizer
        embeddings_VD: Tensor = core(loaded.model).get_input_embeddings().weight
        self.embeddings_VD = embeddings_VD.detach().float()
        self.texts = [self.tokenizer.decode([token]) for token in range(len(self.embeddings_VD))]
        self.usable = torch.tensor([self._readable(text) for text in self.texts])

    @staticmethod
    def _readable(text: str) -> bool:
        return text.isascii() and text.isprintable() and bool(text.strip())

    def better(self, suffix: str, number: int, iteration: int) -> str:
        """The suffix, or one with another token if that makes the known answers likelier."""
        ids, slope_SV = self._slopes(suffix)
        best, lowest = suffix, self.loss(suffix)
        draw = rng(self.seed, "suffix", iteration)
        places = [draw.randrange(len(ids)) for _ in range(number)]
        top_SK = (
            slope_SV.masked_fill(~self.usable.to(slope_SV.device), torch.inf).topk(4 * number, largest=False).indices
        )
        tried = {suffix}
        for place in places:
            token = int(top_SK[place][draw.randrange(top_SK.shape[1])])
            text = self.tokenizer.decode([*ids[:place], token, *ids[place + 1 :]]).strip()
            if text in tried or not text:
                continue
            tried.add(text)
            if (loss := self.loss(text)) < lowest:
                best, lowest = text, loss
        return best

    @torch.no_grad()
    def loss(self, suffix: str) -> float:
        """Mean nll of the known answers behind a suffix, in nats per token."""
        batch = self.loaded.encoder.batch(self._with(suffix)).to(self.loaded.device)
        return float(loss_of(self.loaded, batch))

    def _with(self, suffix: str) -> list[Turn]:
        return [replace(turn, prompt=f"{turn.prompt} {suffix}") for turn in self.turns]

    def _slopes(self, suffix: str) -> tuple[list[int], Tensor]:
        """The tokens of a suffix, and [S, V] how the nll changes, to first order, if each becomes another one."""
        encoder, turns = self.loaded.encoder, self._with(suffix)
        batch = encoder.batch(turns).to(self.loaded.device)
        places = [
            span_of(encoder.prompt(bare), encoder.prompt(turn)) for bare, turn in zip(self.turns, turns, strict=True)
        ]
        first = encoder.prompt(turns[0])[places[0]]
        layer: nn.Module = core(self.loaded.model).get_input_embeddings()
        kept: list[Tensor] = []

        def watch(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_())
            return kept[-1]

        with layer.register_forward_hook(watch), torch.enable_grad():
            (slope_BTD,) = torch.autograd.grad(loss_of(self.loaded, batch), kept[:1])
        slope_SD = torch.stack([
            slope_BTD[row, place].float()
            for row, place in enumerate(places)
            if place.stop - place.start == len(first)
        ]).sum(0)  # fmt: skip
        return list(first), slope_SD @ self.embeddings_VD.T


def span_of(bare: Sequence[int], longer: Sequence[int]) -> slice:
    """Where a prompt has tokens that it has not without its suffix.

    >>> span_of([1, 2, 9, 9], [1, 2, 5, 6, 9, 9])
    slice(2, 4, None)
    """
    start = next((i for i, (a, b) in enumerate(zip(bare, longer, strict=False)) if a != b), min(len(bare), len(longer)))
    behind = next((i for i in range(len(bare) - start) if bare[-1 - i] != longer[-1 - i]), len(bare) - start)
    return slice(start, len(longer) - behind)
