"""What the frozen reference gives the replies: computed once per reply, and recalled in all later steps.

The reference never changes, so a second pass of it over the same replies in every epoch is waste. Instead the replies
that a training will need are laid out once, by image, in chunks; a chunk is run when the first of its replies is
needed, and kept. Which replies share a chunk depends on the data and the settings alone, never on the step,
so a training that was killed and goes on gets the same numbers to the last bit.

Kept are token log-probabilities or, where a loss compares whole distributions, the hidden states behind the last
layer, from which the frozen output layer makes the logits again: D numbers per token instead of V.

Shapes: B replies, N labelled tokens of all replies together, D hidden size, V vocabulary, X what is computed per token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward, apply_head, labelled, run_labelled, run_logits
from mllmu.models.families import Batch, Turn, core
from mllmu.models.loading import Loaded, without_adapter
from mllmu.training.batches import run_step
from mllmu.training.distributed import MakeBatch
from mllmu.training.loop import Training

CHUNK = 16
"""Replies per pass."""
GAIN = 1.5
"""So many times fewer tokens must be read than in every step. On the tiny model 2 times fewer (``npo``, 2 epochs) made
training a tenth faster; 1.3 times fewer (``kl_min``, no retain reply met twice) made it 6 % slower."""
Kept = Literal["logp", "hidden"]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The frozen reference: a model of its own, or the model in training with the new adapter off.

    Attributes:
        make: encodes turns for the reference, labels included.
        apart: it is a model of its own.
    """

    loaded: Loaded
    make: MakeBatch
    training: Training
    apart: bool

    @contextmanager
    def frozen(self) -> Iterator[Any]:
        """The model as the reference, without gradient and dropout, while the context lasts."""
        model, was_training = self.loaded.model, self.loaded.model.training
        model.eval()
        try:
            with torch.no_grad(), nullcontext() if self.apart else without_adapter(model):
                yield model
        finally:
            model.train(was_training)

    def run(self, run: Callable[[Any, Batch], Tensor], turns: Sequence[Turn]) -> tuple[Tensor, Tensor, Tensor]:
        """[N, X] what ``run`` gives for the labelled tokens; see :func:`mllmu.training.batches.run_step`."""
        with self.frozen() as model:
            return run_step(partial(run, model), turns, self.make, self.training.micro_batch_size)

    def forward(self, turns: Sequence[Turn]) -> Forward:
        """One pass over the replies of some turns."""
        return Forward(*self.run(run_logits, turns), len(turns))


def pays(loaded: Loaded, turns: Sequence[Turn], *, shared: bool) -> bool:
    """Whether remembering saves enough; decided by counting tokens, so it is the same after a restart.

    Args:
        turns: every turn as often as its reply will be needed.
        shared: passes are packed, so an image is read once for all its questions.
    """
    encoder, mark = loaded.encoder, loaded.image_token_id
    prompts = {turn: encoder.prompt(turn) for turn in turns}
    lengths = {turn: len(prompt) + len(encoder.reply(turn.reply)) for turn, prompt in prompts.items()}
    images = {turn: prompt.count(mark) for turn, prompt in prompts.items()} if shared and mark is not None else {}
    once = sum(lengths.values()) - sum(images.values())
    once += sum({turn.images: count for turn, count in images.items()}.values())
    return sum(lengths[turn] for turn in turns) > GAIN * once


class ReferenceMemory:
    """Recalls what the reference gives a fixed set of replies.

    If the hidden states of all replies do not fit into ``reference_mib``, logits are computed again whenever they are
    read, with one note.

    Args:
        turns: all whose replies will be needed; their order and number decide what is run together.
    """

    def __init__(self, reference: Reference, turns: Iterable[Turn]) -> None:
        self.reference = reference
        ordered = sorted(dict.fromkeys(turns), key=lambda turn: (turn.image is None, str(turn.image)))
        self._chunks = [ordered[i : i + CHUNK] for i in range(0, len(ordered), CHUNK)]
        self._chunk_of = {turn: index for index, chunk in enumerate(self._chunks) for turn in chunk}
        self._kept: dict[Kept, dict[Turn, Tensor]] = {"logp": {}, "hidden": {}}

    def recall(self, turns: Sequence[Turn], labels_N: Tensor, row_N: Tensor) -> Forward:
        """What the reference gives the replies of some turns.

        Args:
            labels_N, row_N: the labelled tokens and which turn's they are, in the order wanted.
        """
        return Recalled(self, turns, labels_N, row_N)

    def logp_N(self, turns: Sequence[Turn], row_N: Tensor) -> Tensor:
        """[N] log p(token) of the tokens of the turns, in nats."""
        return self._fetch("logp", turns, row_N)

    def logits_NV(self, turns: Sequence[Turn], row_N: Tensor) -> Tensor:
        """[N, V] logits that predict the tokens of the turns."""
        if not self._fits:
            return self.reference.forward(turns).logits_NV
        with self.reference.frozen() as model:
            return apply_head(core(model), self._fetch("hidden", turns, row_N)).float()

    @cached_property
    def _fits(self) -> bool:
        """Hidden states of all replies have room; decided by their size alone, so it is the same after a restart."""
        training, own = self.reference.training, core(self.reference.loaded.model)
        num_tokens = sum(len(labelled(self.reference.make(chunk))[0]) for chunk in self._chunks)
        needed_mib = num_tokens * own.config.get_text_config().hidden_size * own.dtype.itemsize / 2**20
        fits = bool(needed_mib <= training.reference_mib)
        if not fits:
            training.progress.note(
                f"{training.label}: the reference is run in every step: what it gives takes {needed_mib:,.0f} MiB, "
                f"more than unlearn.reference_mib ({training.reference_mib:,.0f})."
            )
        return fits

    def _fetch(self, what: Kept, turns: Sequence[Turn], row_N: Tensor) -> Tensor:
        """[N] or [N, D] for tokens of the turns; runs the chunks that have not been run yet."""
        kept = self._kept[what]
        for index in sorted({self._chunk_of[turn] for turn in turns if turn not in kept}):
            chunk = self._chunks[index]
            values_NX, _, chunk_row_N = self.reference.run(run_labelled if what == "hidden" else run_logp, chunk)
            sizes = torch.bincount(chunk_row_N, minlength=len(chunk)).tolist()
            parts = values_NX[by_reply(chunk_row_N)].cpu().split(sizes)
            kept.update(zip(chunk, parts if what == "hidden" else [part[:, 0] for part in parts], strict=True))
        values = torch.cat([kept[turn] for turn in turns]).to(row_N.device)
        return torch.empty_like(values).index_copy_(0, by_reply(row_N), values)


class Recalled(Forward):
    """A pass that was run earlier: what it gave is fetched when it is read."""

    memory: ReferenceMemory
    turns: Sequence[Turn]

    def __init__(self, memory: ReferenceMemory, turns: Sequence[Turn], labels_N: Tensor, row_N: Tensor) -> None:
        # the fields are frozen, and two of them are computed below
        self.__dict__.update(memory=memory, turns=turns, labels_N=labels_N, row_N=row_N, num_rows=len(turns))

    @cached_property
    def logits_NV(self) -> Tensor:
        return self.memory.logits_NV(self.turns, self.row_N)

    @cached_property
    def token_logp_N(self) -> Tensor:
        return self.memory.logp_N(self.turns, self.row_N)


def run_logp(model: Any, batch: Batch) -> Tensor:
    """[N, 1] log p(token) of the labelled tokens, in nats."""
    return -F.cross_entropy(run_logits(model, batch), labelled(batch)[0], reduction="none")[:, None]


def by_reply(row_N: Tensor) -> Tensor:
    """[N] where the tokens of reply 0 are, then those of reply 1, ...; the tokens of a reply are in order already.

    >>> by_reply(torch.tensor([1, 1, 0, 2, 0])).tolist()
    [2, 4, 0, 1, 3]
    """
    return row_N.argsort(stable=True)
