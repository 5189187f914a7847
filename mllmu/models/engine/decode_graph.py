"""Greedy replies from buffers of fixed size, so that a CUDA graph holds a whole step of all rows.

The nodes of a level wait for a row. Each row has room for the tokens of one node and its reply, so that a step is the
same work whatever is in the rows: one token of every row, its keys and values written in place, attention to the row's
own tokens and to the shared levels above, the likeliest token, and whether the reply ends with it. Nothing of this
needs the host, which looks every few steps, hands finished rows to nodes that wait, and halves the rows when none do.
Shared levels are kept once, without padding; rows below one node read it together::

    level above    image p tokens | image q tokens | ...      starts_G1   first token of every node
    rows           3  0  2        | 1  4           | ...      order_B     rows by the node that they see

Shapes: B rows, S tokens of a row, T tokens of a level, G nodes of a level, K heads of keys, D size of a head, L most
tokens of a reply, E tokens that end one, X rows that are filled or moved.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mllmu.core.errors import one_line
from mllmu.models import devices
from mllmu.models.engine import forward, fused, ragged
from mllmu.models.engine.row_attention import RowPass, SharedLevel
from mllmu.models.engine.tree import TreeLevel, running
from mllmu.models.families import core

ROWS = 512
"""Most rows of a step: more make the products hardly more efficient, and every row takes memory for a whole reply."""
FEWEST_ROWS = 16
EVERY = 4
"""Steps between two looks of the host."""
REFILL = 8
"""Rows are refilled when one in so many is free: each time costs a few launches per layer."""
SHRINK = 4
"""Rows are made fewer when one in so many is in use."""
SLOTS, TOKENS, NODES = 32, 1024, 16
"""Sizes of buffers are multiples of these, so that the next batch fits into them too."""


def decode(
    model: Any, level: TreeLevel, first_NV: Tensor, limits: Sequence[int], ends: frozenset[int], *, rows: int = ROWS
) -> list[list[int]]:
    """As :func:`mllmu.models.engine.forward.decode`, which is used where a step has no fixed shape.

    That is with modifiers, which look at more than keys, with a model on several devices, and with windows that a
    reply is longer than.

    Args:
        rows: most replies that are written at a time.
    """
    if not fixed(model, level, limits):
        return forward.decode(model, level, first_NV, limits, ends)
    replies = [[token] for token in forward.best(first_NV)]
    waiting = [i for i, (token,) in enumerate(replies) if limits[i] > 1 and token not in ends]
    if waiting:
        _write(_buffers(model, level, waiting, limits, ends, rows), model, level, replies, waiting, limits)
    return replies


def fixed(model: Any, level: TreeLevel, limits: Sequence[int]) -> bool:
    """Whether replies behind a level can be written in steps of fixed shape."""
    own = core(model)
    config = own.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    longest = int(level.ends.max()) + max(limits)
    modified = any(name.startswith(forward.MODIFIER) for name, _ in own.named_children())
    one_device = {states.device for states in level.states.values()} == {model.device}
    return not modified and one_device and (window is None or longest <= window)


def _write(
    buffers: RowBuffers,
    model: Any,
    level: TreeLevel,
    replies: list[list[int]],
    waiting: list[int],
    limits: Sequence[int],
) -> None:
    """Write the replies of nodes that wait; each begins with its first token."""
    buffers.share(level)
    used = buffers.rows_for(len(waiting))
    seats: dict[int, int] = {}  # the node in each row that is in use
    left = 0  # steps that the longest reply can still take
    while seats or waiting:
        free = [row for row in range(used) if row not in seats]
        if waiting and len(free) * REFILL >= used:
            taken = dict(zip(free, waiting, strict=False))
            waiting = waiting[len(taken) :]
            buffers.fill(level, taken, [replies[node][0] for node in taken.values()], limits, used)
            seats |= taken
            left = max(left, *(limits[node] - 1 for node in taken.values()))
        if not waiting and (fewer := buffers.rows_for(len(seats))) * SHRINK <= used:
            buffers.move(list(seats), fewer)
            used, seats = fewer, dict(enumerate(seats.values()))
        steps = min(EVERY, left)
        left -= steps
        for _ in range(steps):
            buffers.advance(model, used)
        for row, reply in buffers.finished(list(seats), used):
            replies[seats.pop(row)][1:] = reply


class RowBuffers:
    """Buffers of fixed size for the rows that are being written, and the captured steps that work on them.

    Args:
        model: its device and precision decide how attention is computed.
        level: whose nodes are written on; it tells the sizes of keys and values.
        rows, slots: most rows, and tokens of each.
        length: most tokens of a reply.
        ends: tokens that end a reply.
    """

    def __init__(
        self, model: Any, level: TreeLevel, *, rows: int, slots: int, length: int, ends: frozenset[int]
    ) -> None:
        device = model.device
        self.rows, self.slots, self.length, self.ends = rows, slots, length, ends
        self.fused = ragged.usable(device, model.dtype)
        self.ends_E = torch.tensor(sorted(ends) or [-1], device=device)
        self.own = {
            layer: states.new_zeros(2, rows, slots, states.shape[2], states.shape[4])
            for layer, states in level.states.items()
        }
        self.token_B, self.position_B, self.count_B, self.limit_B = torch.zeros(
            4, rows, dtype=torch.long, device=device
        )
        self.held_B = torch.zeros(rows, dtype=torch.int32, device=device)
        self.going_B = torch.zeros(rows, dtype=torch.bool, device=device)
        self.written_BL = torch.zeros(rows, length + 1, dtype=torch.long, device=device)
        self.row_B = torch.arange(rows, device=device)
        self.shared: list[SharedLevel] = []
        above = level.above
        while above is not None:
            self.shared.append(_empty_shared(above, rows, device))
            above = above.above
        self.graphs: dict[int, Any] | None = {} if device.type == "cuda" else None
        self._pool: Any = None

    def fits(self, level: TreeLevel, rows: int, slots: int, length: int, ends: frozenset[int]) -> bool:
        """Whether replies behind another level can be written in these buffers."""
        above, shared = level.above, list(self.shared)
        while above is not None and shared:
            room = shared.pop(0)
            if len(above) >= len(room.starts_G1) or int(above.lengths.sum()) > len(room.node_T):
                return False
            above = above.above
        alike = above is None and not shared and self.ends == ends and self.own.keys() == level.states.keys()
        return alike and rows <= self.rows and slots <= self.slots and length <= self.length

    def rows_for(self, replies: int) -> int:
        """Rows of a step that writes some replies."""
        return _rows(min(replies, self.rows), self.rows)

    def share(self, level: TreeLevel) -> None:
        """Take over the levels above another level."""
        for shared in self.shared:
            assert level.above is not None  # noqa: S101 - buffers that do not fit are not used
            level = level.above
            device = shared.node_T.device
            tokens = int(level.lengths.sum())
            node_T = torch.arange(len(level)).repeat_interleave(level.lengths)
            starts_G = level.lengths.cumsum(0) - level.lengths
            slot_T = torch.arange(tokens) - starts_G[node_T]
            shared.node_T.fill_(-1)[:tokens] = node_T.to(device)
            shared.starts_G1.fill_(tokens)[: len(level)] = starts_G.to(device)
            picked = node_T.to(device), slot_T.to(device)
            for layer, states in level.states.items():
                for held, x_NKSD in zip(shared.states[layer], states, strict=True):
                    held[:tokens] = x_NKSD[picked[0], :, picked[1]]
            shared.of_rows = [0] * self.rows

    def fill(
        self, level: TreeLevel, taken: dict[int, int], tokens: Sequence[int], limits: Sequence[int], used: int
    ) -> None:
        """Give rows to nodes; ``tokens`` are the first ones of their replies, ``used`` the rows of the next step."""
        device = self.token_B.device
        row_X, node_X = torch.tensor([list(taken), list(taken.values())], device=device)
        width = int(level.lengths[list(taken.values())].max())
        for layer, states in level.states.items():
            self.own[layer][:, row_X, :width] = states[:, node_X, :, :width].transpose(2, 3)
        here_X = node_X.cpu()
        self.token_B[row_X] = token_X = torch.tensor(tokens, device=device)
        self.written_BL[row_X, 0] = token_X
        self.position_B[row_X] = level.following[here_X].to(device)
        self.held_B[row_X] = level.lengths[here_X].to(device, torch.int32)
        self.limit_B[row_X] = torch.tensor([limits[node] for node in taken.values()], device=device)
        self.count_B[row_X] = 1
        self.going_B[row_X] = True
        nodes = here_X
        for shared in self.shared:
            nodes = level.parents[nodes]
            for row, node in zip(taken, nodes.tolist(), strict=True):
                shared.of_rows[row] = node
            assert level.above is not None  # noqa: S101 - there is one for every shared level
            level = level.above
        self._arrange(used)

    def _arrange(self, used: int) -> None:
        """Write down which rows see which node."""
        for shared in self.shared:
            node_B = torch.tensor(shared.of_rows[:used])
            order_B = node_B.argsort(stable=True)
            first_G = torch.bincount(node_B, minlength=len(shared.first_G1) - 1).cumsum(0)
            shared.node_B[:used] = node_B.to(shared.node_B.device)
            shared.order_B[:used] = order_B.to(shared.node_B.device)
            shared.place_B[:used] = order_B.argsort().to(shared.node_B.device)
            shared.first_G1[1:] = first_G.to(shared.node_B.device)

    def move(self, rows: Sequence[int], used: int) -> None:
        """Put some rows first; the others up to ``used`` are free."""
        row_X, many = torch.tensor(rows, device=self.row_B.device), len(rows)
        for states in self.own.values():
            states[:, :many] = states[:, row_X]
        for held in (self.token_B, self.position_B, self.count_B, self.limit_B, self.held_B, self.written_BL):
            held[:many] = held[row_X]
        self.going_B[:many], self.going_B[many:] = True, False
        for shared in self.shared:
            shared.of_rows[:many] = [shared.of_rows[row] for row in rows]
        self._arrange(used)

    def finished(self, rows: Sequence[int], used: int) -> list[tuple[int, list[int]]]:
        """Those of some rows whose reply has ended, and its tokens behind the first."""
        going, count = torch.stack([self.going_B.long(), self.count_B])[:, :used].tolist()
        ended = [row for row in rows if not going[row]]
        if not ended:
            return []
        written = self.written_BL[torch.tensor(ended, device=self.row_B.device)].tolist()
        return [(row, tokens[1 : count[row]]) for row, tokens in zip(ended, written, strict=True)]

    def advance(self, model: Any, used: int) -> None:
        """Write a token of each of the first ``used`` rows: by a captured step if there is one or can be one."""
        if self.graphs is None:
            self._step(model, used)
        elif used in self.graphs:
            self.graphs[used].replay()
        else:
            self._step_and_capture(model, used, self.graphs)

    def _step_and_capture(self, model: Any, used: int, graphs: dict[int, Any]) -> None:
        """Write a token, which gets all ready, and capture the same step; where that fails go on without graphs."""
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._step(model, used)
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                self._step(model, used)
        except (RuntimeError, NotImplementedError) as error:
            self.graphs = None
            warnings.warn(f"replies are written without CUDA graphs: {one_line(error)}", RuntimeWarning, stacklevel=2)
        else:
            self._pool = self._pool or graph.pool()
            graphs[used] = graph

    def _step(self, model: Any, used: int) -> None:
        """What a step does; only tensors are changed, so that it can be captured."""
        row_pass, own = RowPass(self, used), core(model)
        with running(model, row_pass):
            output = own.model(
                input_ids=self.token_B[None, :used],
                attention_mask=None,
                position_ids=self.position_B[None, :used],
                use_cache=False,
            )
        token_B = forward.apply_head(own, output.last_hidden_state[0]).argmax(-1)
        held_B, count_B, going_B = self.held_B[:used], self.count_B[:used], self.going_B[:used]
        # a row that has ended writes behind its reply, where nothing reads
        self.written_BL[:used].scatter_(1, count_B[:, None], token_B[:, None])
        held_B += going_B
        count_B += going_B
        self.position_B[:used] += going_B
        self.token_B[:used] = token_B
        going_B &= (token_B[:, None] != self.ends_E).all(1) & (count_B < self.limit_B[:used])


def _rows(replies: int, most: int) -> int:
    """The next power of two, within bounds."""
    return min(most, max(FEWEST_ROWS, 1 << (replies - 1).bit_length()))


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def _empty_shared(level: TreeLevel, rows: int, device: torch.device) -> SharedLevel:
    nodes, tokens = _up(len(level), NODES), _up(int(level.lengths.sum()), TOKENS)
    zeros = torch.zeros(2, nodes + 1, dtype=torch.int32, device=device)
    order_B, place_B, node_B = torch.arange(rows, device=device).repeat(3, 1)
    return SharedLevel(
        states={
            layer: states.new_zeros(2, tokens, states.shape[2], states.shape[4])
            for layer, states in level.states.items()
        },
        starts_G1=zeros[0],
        first_G1=zeros[1],
        order_B=order_B,
        place_B=place_B,
        node_T=torch.full((tokens,), -1, device=device),
        node_B=node_B,
    )


_kept: list[RowBuffers] | None = None


@contextmanager
def quickly(model: Any) -> Iterator[None]:
    """Let a model on a GPU answer in few operations, and keep what was captured from batch to batch."""
    with kept(), fused.answering(model):
        yield


@contextmanager
def kept() -> Iterator[None]:
    """Keep buffers and captured steps from batch to batch; meanwhile one model writes, and its weights stay."""
    global _kept
    made: list[RowBuffers] = []
    _kept, drop = made, made.clear
    devices.SPARE.append(drop)
    try:
        yield
    finally:
        devices.SPARE.remove(drop)
        _kept = None


def _buffers(
    model: Any, level: TreeLevel, waiting: Sequence[int], limits: Sequence[int], ends: frozenset[int], rows: int
) -> RowBuffers:
    """Buffers for the replies of some nodes: those of the last batch if they suffice."""
    needed = _rows(min(len(waiting), rows), rows)
    longest = max(limits[node] for node in waiting)
    slots = _up(max(int(level.lengths[node]) + limits[node] for node in waiting), SLOTS)
    for buffers in _kept or ():
        if buffers.fits(level, needed, slots, longest, ends):
            return buffers
    if _kept is not None:
        _kept.clear()  # before the new ones take memory
    made = RowBuffers(model, level, rows=needed, slots=slots, length=longest, ends=ends)
    if _kept is not None:
        _kept.append(made)
    return made
