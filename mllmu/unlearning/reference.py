"""What the frozen reference gives the replies: computed once a reply, and recalled in all later steps.

The reference never changes, so a second pass of it over the same replies in every epoch is waste. Instead the replies
that a training will ask for are laid out once, by image, in chunks; a chunk is run when the first of its replies is
needed, and kept. Which replies share a chunk depends on the data and the settings alone, never on the step that asks,
so a training that was killed and goes on finds the same numbers to the last bit.

Kept are token log-probabilities or, where a loss compares whole distributions, the hidden states behind the last
layer, from which the frozen output layer makes the logits again: D numbers a token instead of V.

Shapes: B replies, N labelled tokens of all replies together, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine.forward import Forward, apply_head, labelled, run_labelled, run_logits
from mllmu.models.families import Batch, Turn
from mllmu.models.loading import Loaded
from mllmu.models.parts import core
from mllmu.training import distributed
from mllmu.training.distributed import MakeBatch

CHUNK = 16
"""Replies a pass."""
GAIN = 1.5
"""So many times fewer tokens must be read than in every step. On the tiny model 2 times fewer (``npo``, 2 epochs) made
training a tenth faster; 1.3 times fewer (``kl_min``, no retain reply met twice) made it 6 % slower."""
Kind = Literal["logp", "hidden"]


def pays(loaded: Loaded, asked: Sequence[Turn], *, shared: bool) -> bool:
    """Whether remembering saves enough; decided by counting tokens, so it is the same after a restart.

    Args:
        asked: every reply as often as it will be asked for.
        shared: passes are packed, so an image is read once for all its questions.
    """
    encoder, mark = loaded.encoder, loaded.image_token_id
    prompts = {turn: encoder.prompt(turn) for turn in asked}
    lengths = {turn: len(prompt) + len(encoder.reply(turn.reply)) for turn, prompt in prompts.items()}
    images = {turn: prompt.count(mark) for turn, prompt in prompts.items()} if shared and mark is not None else {}
    once = sum(lengths.values()) - sum(images.values())
    once += sum({turn.images: count for turn, count in images.items()}.values())
    return sum(lengths[turn] for turn in asked) > GAIN * once


class Recalled(Forward):
    """A pass that was run earlier: what it gave is fetched when it is asked for."""

    _logp: Callable[[], Tensor]
    _logits: Callable[[], Tensor]

    def __init__(
        self,
        labels_N: Tensor,
        row_N: Tensor,
        num_rows: int,
        *,
        logp: Callable[[], Tensor],
        logits: Callable[[], Tensor],
    ) -> None:
        # the fields are frozen, and two of them are computed below
        self.__dict__.update(labels_N=labels_N, row_N=row_N, num_rows=num_rows, _logp=logp, _logits=logits)

    @cached_property
    def logits_NV(self) -> Tensor:
        return self._logits()

    @cached_property
    def token_logp_N(self) -> Tensor:
        return self._logp()


class ReferenceMemory:
    """Recalls what the reference gives a fixed set of replies.

    Args:
        turns: all that will be asked for; their order and number decide what is run together.
        frozen: the reference, ready to run, while the context lasts.
        batches: encodes turns for the reference, labels included.
        at_once: most replies in one run of the model, as in training; None: all of a chunk.
        most_bytes: room for hidden states; if they do not fit, logits are computed again whenever they are asked for.
        note: is told so, once.
    """

    def __init__(
        self,
        turns: Iterable[Turn],
        *,
        frozen: Callable[[], AbstractContextManager[Loaded]],
        batches: Callable[[Loaded], MakeBatch],
        at_once: int | None,
        most_bytes: float,
        note: Callable[[str], None],
    ) -> None:
        ordered = sorted(dict.fromkeys(turns), key=lambda turn: (turn.image is None, str(turn.image)))
        self._chunks = [ordered[i : i + CHUNK] for i in range(0, len(ordered), CHUNK)]
        self._place = {turn: place for place, chunk in enumerate(self._chunks) for turn in chunk}
        self._frozen, self._batches, self._at_once, self._most_bytes, self._note = (
            frozen, batches, at_once, most_bytes, note,
        )  # fmt: skip
        self._kept: dict[Kind, dict[Turn, Tensor]] = {"logp": {}, "hidden": {}}
        self._done: dict[Kind, set[int]] = {"logp": set(), "hidden": set()}

    def holds(self, turns: Iterable[Turn]) -> bool:
        """Whether all these turns are among those that were announced."""
        return all(turn in self._place for turn in turns)

    def recall(self, turns: Sequence[Turn], labels_N: Tensor, row_N: Tensor) -> Forward:
        """What the reference gives the replies of some turns.

        Args:
            labels_N, row_N: the labelled tokens and which turn's they are, in the order wanted.
        """

        def logits() -> Tensor:
            with self._frozen() as loaded:
                if not self._fits:
                    again = distributed.forward(loaded.model, turns, self._batches(loaded), at_once=self._at_once)
                    return again.logits_NV
                return apply_head(core(loaded.model), self._fetch("hidden", turns, row_N)).float()

        return Recalled(labels_N, row_N, len(turns), logp=lambda: self._fetch("logp", turns, row_N), logits=logits)

    @cached_property
    def _fits(self) -> bool:
        """Hidden states of all replies have room; decided by their size alone, so it is the same after a restart."""
        with self._frozen() as loaded:
            counted = map(self._batches(loaded), self._chunks)
            num_tokens = sum(len(labelled(batch)[0]) for batch in counted)
            own = core(loaded.model)
            needed = num_tokens * own.config.get_text_config().hidden_size * own.dtype.itemsize
        if needed > self._most_bytes:
            self._note(
                f"the reference is run in every step: what it gives takes {needed / 2**20:,.0f} MiB, more than "
                f"unlearn.reference_mib ({self._most_bytes / 2**20:,.0f})."
            )
        return bool(needed <= self._most_bytes)

    def _fetch(self, kind: Kind, turns: Sequence[Turn], row_N: Tensor) -> Tensor:
        """[N] or [N, D] for tokens of the turns; runs the chunks that have not been run yet."""
        for place in sorted({self._place[turn] for turn in turns} - self._done[kind]):
            self._run(place, kind)
        found = torch.cat([self._kept[kind][turn] for turn in turns]).to(row_N.device)
        return torch.empty_like(found).index_copy_(0, by_reply(row_N), found)

    def _run(self, place: int, kind: Kind) -> None:
        chunk = self._chunks[place]
        with self._frozen() as loaded:
            run = partial(run_labelled if kind == "hidden" else run_logp, loaded.model)
            found_NX, _, row_N = distributed.together(run, chunk, self._batches(loaded), self._at_once)
        parts = found_NX[by_reply(row_N)].cpu().split(torch.bincount(row_N, minlength=len(chunk)).tolist())
        self._kept[kind].update(zip(chunk, parts if kind == "hidden" else [part[:, 0] for part in parts], strict=True))
        self._done[kind].add(place)


def run_logp(model: Any, batch: Batch) -> Tensor:
    """[N, 1] log p(token) of the labelled tokens, in nats."""
    return -F.cross_entropy(run_logits(model, batch), labelled(batch)[0], reduction="none")[:, None]


def by_reply(row_N: Tensor) -> Tensor:
    """[N] the places of the tokens of reply 0, then those of reply 1, ...; the tokens of a reply are in order already.

    >>> by_reply(torch.tensor([1, 1, 0, 2, 0])).tolist()
    [2, 4, 0, 1, 3]
    """
    return row_N.argsort(stable=True)
