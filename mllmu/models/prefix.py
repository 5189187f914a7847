"""Continue token sequences from shared prefixes: what is common is computed once, then fanned out.

The questions about one picture share the picture; the options of a question share the question. A :class:`State` holds
the keys and values of some sequences. :func:`extend` starts new sequences from it, each behind a parent of its own, and
:func:`decode` writes greedy replies. Rows are padded on the right and the padding is masked, so every row gets what it
would get alone, up to rounding.

Shapes: R rows, S cache slots, Q new tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from mllmu.models.pictures import core, embedded


@dataclass
class State:
    """Sequences as far as they have been read.

    Attributes:
        cache: keys and values; row r belongs to sequence r.
        mask_RS: 1 where a cache slot of a row holds a token, 0 where it is padding.
        length_R: number of tokens of each row, which is the position of its next token.
        last_RD: hidden state of each row's last token.
    """

    cache: DynamicCache
    mask_RS: Tensor
    length_R: Tensor
    last_RD: Tensor

    def select(self, rows: Sequence[int]) -> State:
        """The given rows, in the given order; a row may be taken several times. Nothing is shared with the old one."""
        index = torch.tensor(rows, device=self.mask_RS.device)
        cache = DynamicCache()
        for layer, held in enumerate(self.cache.layers):
            cache.update(held.keys[index], held.values[index], layer)
        return State(cache, self.mask_RS[index], self.length_R[index], self.last_RD[index])


def begin(model: Any, ids: Sequence[Sequence[int]], pictures: dict[str, Tensor], pad: int) -> State:
    """Read prefixes from their first token on, pictures included."""
    device = model.device
    empty = torch.zeros(len(ids), 0, dtype=torch.long, device=device)
    start = State(DynamicCache(), empty, torch.zeros(len(ids), dtype=torch.long, device=device), torch.empty(0))
    return _read(model, start, ids, pad, pictures)[0]


def extend(
    model: Any, state: State, parents: Sequence[int], ids: Sequence[Sequence[int]], pad: int
) -> tuple[State, Tensor]:
    """Read ``ids[i]`` behind row ``parents[i]`` of the state; every row needs at least one token.

    Returns:
        The new state, and the hidden states [R, Q, D] of the new tokens (padding at the right).
    """
    return _read(model, state.select(parents), ids, pad, {})


def _read(
    model: Any, state: State, ids: Sequence[Sequence[int]], pad: int, pictures: dict[str, Tensor]
) -> tuple[State, Tensor]:
    device = state.mask_RS.device
    lengths = torch.tensor([len(row) for row in ids], device=device)
    width = int(lengths.max())
    ids_RQ = torch.tensor([[*row, *[pad] * (width - len(row))] for row in ids], device=device)
    steps_Q = torch.arange(width, device=device)
    new_RQ = (steps_Q < lengths[:, None]).long()
    mask_RS = torch.cat([state.mask_RS, new_RQ], dim=1)
    hidden_RQD = (
        core(model)
        .model(
            **embedded(model, {"input_ids": ids_RQ, **pictures}),
            attention_mask=mask_RS,
            position_ids=state.length_R[:, None] + steps_Q,
            past_key_values=state.cache,
            use_cache=True,
        )
        .last_hidden_state
    )
    last_RD = hidden_RQD[torch.arange(len(ids), device=device), lengths - 1]
    return State(state.cache, mask_RS, state.length_R + lengths, last_RD), hidden_RQD


def reply_logps(
    model: Any, state: State, parents: Sequence[int], replies: Sequence[Sequence[int]], pad: int
) -> list[float]:
    """Log-probability in nats of each reply behind its parent, summed over all its tokens."""
    # The first token is predicted by the parent's last hidden state, the last token predicts nothing.
    first_RD = state.last_RD[torch.tensor(parents, device=state.last_RD.device)]
    hidden_RQD = first_RD[:, None]
    if any(len(reply) > 1 for reply in replies):
        behind = [reply[:-1] or [pad] for reply in replies]
        hidden_RQD = torch.cat([hidden_RQD, extend(model, state, parents, behind, pad)[1]], dim=1)
    labels_RQ = torch.full(hidden_RQD.shape[:2], -100, device=hidden_RQD.device)
    for row, reply in enumerate(replies):
        labels_RQ[row, : len(reply)] = torch.tensor(reply, device=labels_RQ.device)
    wanted = labels_RQ != -100
    logits_NV = core(model).lm_head(hidden_RQD[wanted]).float()
    logp_N = -F.cross_entropy(logits_NV, labels_RQ[wanted], reduction="none")
    sums_R = torch.zeros(len(replies), device=logp_N.device).index_add(0, wanted.nonzero()[:, 0], logp_N)
    return [float(value) for value in sums_R]


def decode(model: Any, state: State, limits: Sequence[int], ends: frozenset[int], pad: int) -> list[list[int]]:
    """Greedy replies, each up to and including its end token or up to its limit.

    Rows that have ended are dropped from the batch once they are half of it.
    """
    replies: list[list[int]] = [[] for _ in limits]
    rows = list(range(len(limits)))
    while True:
        chosen = core(model).lm_head(state.last_RD).argmax(-1).tolist()
        for row, token in zip(rows, chosen, strict=True):
            if not _over(replies[row], limits[row], ends):
                replies[row].append(token)
        going = [place for place, row in enumerate(rows) if not _over(replies[row], limits[row], ends)]
        if not going:
            return replies
        if 2 * len(going) <= len(rows):
            state, rows, chosen = state.select(going), [rows[p] for p in going], [chosen[p] for p in going]
        state = _read(model, state, [[token] for token in chosen], pad, {})[0]


def _over(reply: Sequence[int], limit: int, ends: frozenset[int]) -> bool:
    return len(reply) >= limit or (len(reply) > 0 and reply[-1] in ends)
