"""Forward passes: logits at labelled tokens, and the likelihoods and greedy replies behind shared beginnings.

A batch of turns is one pass for a loss (:func:`run_forward`). Prompts are a tree (:mod:`mllmu.models.engine.tree`), of
which every segment is read once (:func:`read`) and continued by candidates (:func:`reply_logps`) and by greedy replies
(:func:`decode`). Every token gets the logits that it has in a sequence of its own, up to rounding.

Shapes: B rows, T tokens, N labelled tokens of all rows together or nodes of a level, M new tokens of all nodes, D
hidden size, V vocabulary.
"""

import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mllmu.core.errors import DataError
from mllmu.core.process import count_tokens
from mllmu.models import devices
from mllmu.models.encoding import FEATURES
from mllmu.models.engine.tree import PassEnded, TreeLevel, TreePass, running
from mllmu.models.families import Batch, core

MOST_LOGITS = 2**24
"""Logits that are in memory at a time: tokens times vocabulary."""
MOST_TOKENS = 8192
"""Candidate tokens that are read at a time."""
FULL = 0.75
"""A level is made smaller when at most this share of its replies are still being written."""
UNCHECKED = 2**26
"""Bytes of copies that are made without looking how much memory is free."""
MODIFIER = "modifier_"
"""Beginning of the names under which modifiers are parts of a model."""


@dataclass(frozen=True)
class Forward:
    """Float32 logits that predict the labelled tokens of a batch, those tokens, and the row of each, of B rows."""

    logits_NV: Tensor
    labels_N: Tensor
    row_N: Tensor
    num_rows: int

    @cached_property
    def token_logp_N(self) -> Tensor:
        """[N] log p(token | everything before it), in nats."""
        return -F.cross_entropy(self.logits_NV, self.labels_N, reduction="none")

    @cached_property
    def row_logp_B(self) -> Tensor:
        """[B] log-probability of each reply: token log-probabilities *summed* over its labelled tokens, in nats.

        Raises:
            DataError: the batch has no labelled token.
        """
        check_labelled(self.labels_N)
        zeros = torch.zeros(self.num_rows, dtype=self.token_logp_N.dtype, device=self.token_logp_N.device)
        return zeros.index_add(0, self.row_N, self.token_logp_N)

    @cached_property
    def row_length_B(self) -> Tensor:
        """[B] number of labelled tokens of each reply."""
        zeros = torch.zeros(self.num_rows, dtype=torch.long, device=self.row_N.device)
        return zeros.index_add(0, self.row_N, torch.ones_like(self.row_N))

    @cached_property
    def mean_logp_B(self) -> Tensor:
        """[B] log-probability of each reply per labelled token, in nats."""
        return self.row_logp_B / self.row_length_B


def check_labelled(of_tokens: Tensor) -> None:
    """Raise DataError for a batch without labelled tokens: a mean over nothing is NaN and would destroy the weights."""
    if not len(of_tokens):
        raise DataError(
            "loss: got a batch without a single labelled token, expected a reply in every training question. "
            "Look for empty answers in the training data."
        )


def run_forward(model: Any, batch: Batch) -> Forward:
    """Run a model on a batch; the language-model head is applied to labelled positions only."""
    num_rows = len(batch.labels) if batch.replies is None else batch.num_replies
    return Forward(run_logits(model, batch), *labelled(batch), num_rows)


def run_logits(model: Any, batch: Batch) -> Tensor:
    """[N, V] float32 logits that predict the labelled tokens."""
    return apply_head(core(model), run_labelled(model, batch)).float()


def run_labelled(model: Any, batch: Batch) -> Tensor:
    """[N, D] hidden states behind the last layer, in the model's precision, that predict the labelled tokens."""
    return run_body(model, batch).flatten(0, 1).index_select(0, batch.labelled[0])


def run_body(model: Any, batch: Batch) -> Tensor:
    """[B, T, D] hidden states behind the last layer."""
    count_tokens(batch.num_tokens)
    masks = {"attention_mask": batch.masks} if batch.masks else {}
    own = core(model)
    with own.noise.of_batch(batch.noise) if batch.noise else nullcontext():
        output = own.model(**embedded(model, batch.inputs), **masks, use_cache=False)
    hidden_BTD: Tensor = output.last_hidden_state
    return hidden_BTD


def embedded(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs as the model takes them: image features, if given, are put among the embeddings of the tokens.

    This is what the models do themselves after their vision tower: every image token becomes a row of features.
    """
    if FEATURES not in inputs:
        return inputs
    own, ids_BT = core(model), inputs["input_ids"]
    tokens_BTD = own.get_input_embeddings()(ids_BT)
    image_BT1 = (ids_BT == own.config.image_token_id)[..., None]
    embeds_BTD = tokens_BTD.masked_scatter(image_BT1, inputs[FEATURES].to(tokens_BTD.dtype))
    return {"inputs_embeds": embeds_BTD, **{k: v for k, v in inputs.items() if k not in ("input_ids", FEATURES)}}


def labelled(batch: Batch) -> tuple[Tensor, Tensor]:
    """[N] the labelled tokens of a batch, and [N] the row, or the packed reply, that each belongs to."""
    _, label_N, row_N = batch.labelled
    return label_N, row_N


def apply_head(own: Any, hidden_ND: Tensor) -> Tensor:
    """[N, V] logits of hidden states; some models bound them: cap * tanh(logits / cap)."""
    logits_NV: Tensor = own.lm_head(hidden_ND)
    cap = getattr(own.config.get_text_config(), "final_logit_softcapping", None) if hasattr(own, "config") else None
    return logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap


def read(
    model: Any,
    above: TreeLevel | None,
    parents: Sequence[int],
    ids: Sequence[Sequence[int]],
    images: dict[str, Tensor] | None = None,
    *,
    ends: bool = True,
    **settings: Any,
) -> TreeLevel:
    """Read a node of at least one token behind each parent, or from the beginning; images are those among ``ids``.

    Args:
        parents: numbers of nodes of ``above``; of no meaning without it.
        ends: prompts end here. Where all of them continue, the last layer computes keys and values alone.
        settings: see :class:`mllmu.models.engine.tree.TreePass`.
    """
    own, level = core(model), TreeLevel(above, parents)
    modified = any(name.startswith(MODIFIER) for name, _ in own.named_children())  # a modifier reads all layers
    until = None if ends or modified else own.config.get_text_config().num_hidden_layers - 1
    tree_pass = TreePass(level, range(len(ids)), list(map(len, ids)), model.device, until=until, **settings)
    with suppress(PassEnded):
        level.last = _run(model, tree_pass, ids, images)[1]
    return level


def _run(
    model: Any, tree_pass: TreePass, ids: Sequence[Sequence[int]], images: dict[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Read tokens; returns hidden states: of the new tokens [M, D], of each node's last one [N, D]."""
    ids_1M = torch.tensor([[token for row in ids for token in row]], device=model.device)
    position_AM = tree_pass.position_AM.to(model.device)
    with running(model, tree_pass):
        output = core(model).model(
            **embedded(model, {"input_ids": ids_1M, **(images or {})}),
            attention_mask=None,
            position_ids=position_AM if len(position_AM) == 1 else position_AM[:, None],
            use_cache=False,
        )
    hidden_MD: Tensor = output.last_hidden_state[0]
    return hidden_MD, hidden_MD[tree_pass.last_N]


def next_logits(model: Any, level: TreeLevel) -> Tensor:
    """[N, V] logits of the token that comes behind each node."""
    parts = [logits_MV for _, logits_MV in _logits(model, level.last)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _logits(model: Any, hidden_MD: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Logits of hidden states, some at a time."""
    own = core(model)
    step = max(1, MOST_LOGITS // own.lm_head.weight.shape[0])
    for start in range(0, len(hidden_MD), step):
        part = slice(start, start + step)
        yield part, apply_head(own, hidden_MD[part])


def reply_logps(
    model: Any, level: TreeLevel, first_NV: Tensor, parents: Sequence[int], replies: Sequence[Sequence[int]]
) -> list[float]:
    """Log-probability in nats of each reply behind its parent; ``first_NV`` are the level's :func:`next_logits`."""
    if not replies:
        return []
    at_once, device = max(1, MOST_LOGITS // first_NV.shape[1]), first_NV.device
    parent_B, opening_B = torch.tensor([parents, [reply[0] for reply in replies]], device=device)
    norm_N = torch.cat([part.float().logsumexp(-1) for part in first_NV.split(at_once)])
    sum_B = first_NV[parent_B, opening_B].float() - norm_N[parent_B]
    for some in portions([len(reply) - 1 for reply in replies], parents):
        branch, ids = TreeLevel(level, [parents[i] for i in some]), [replies[i][:-1] for i in some]
        hidden_MD, _ = _run(model, TreePass(branch, range(len(some)), list(map(len, ids)), device), ids)
        label_M = torch.tensor([token for i in some for token in replies[i][1:]], device=device)
        logp_M = torch.cat([_logp(logits, label_M[part]) for part, logits in _logits(model, hidden_MD)])
        reply_M = torch.tensor(some, device=device).repeat_interleave(branch.lengths.to(device))
        sum_B.index_add_(0, reply_M, logp_M)
    return sum_B.tolist()


def _logp(logits_MV: Tensor, label_M: Tensor) -> Tensor:
    logits_MV = logits_MV.float()
    return logits_MV.gather(1, label_M[:, None])[:, 0] - logits_MV.logsumexp(-1)


def portions(lengths: Sequence[int], parents: Sequence[int]) -> Iterator[list[int]]:
    """The replies that have tokens, at most MOST_TOKENS together; those of about one length, as they are filled up."""
    sizes = [length.bit_length() for length in lengths]
    portion: list[int] = []
    used = 0
    for i in sorted((i for i, length in enumerate(lengths) if length), key=lambda i: (sizes[i], parents[i])):
        if portion and (used + lengths[i] > MOST_TOKENS or sizes[i] != sizes[portion[0]]):
            yield portion
            portion, used = [], 0
        portion.append(i)
        used += lengths[i]
    if portion:
        yield portion


def decode(
    model: Any, level: TreeLevel, first_NV: Tensor, limits: Sequence[int], ends: frozenset[int]
) -> list[list[int]]:
    """Greedy replies behind the nodes of a level, each up to and including its end token or up to its limit.

    A reply that has ended costs nothing any more. The level itself stays as it is.
    """
    replies: list[list[int]] = [[] for _ in limits]
    unfinished, chosen = list(range(len(limits))), best(first_NV)
    node: dict[int, int] = {}  # of each reply among those of the level that grows
    while True:
        for i, token in zip(unfinished, chosen, strict=True):
            replies[i].append(token)
        unfinished = [i for i in unfinished if len(replies[i]) < limits[i] and replies[i][-1] not in ends]
        if not unfinished:
            return replies
        if len(unfinished) <= FULL * len(node) or not node:
            level = level.growing([node.get(i, i) for i in unfinished])
            node = {i: number for number, i in enumerate(unfinished)}
        tree_pass = TreePass(level, [node[i] for i in unfinished], [1] * len(unfinished), model.device)
        _, hidden_ND = _run(model, tree_pass, [[replies[i][-1]] for i in unfinished])
        chosen = [token for _, logits_NV in _logits(model, hidden_ND) for token in best(logits_NV)]


def best(logits_NV: Tensor) -> list[int]:
    """[N] the likeliest token; of equals the first."""
    if logits_NV.device.type == "cpu" and logits_NV.dtype == torch.float32:
        # ten times as fast as torch's own on a CPU
        tokens: list[int] = logits_NV.numpy().argmax(-1).tolist()
        return tokens
    return [int(token) for token in logits_NV.argmax(-1).tolist()]


@contextmanager
def prepacked(model: Any, targets: str) -> Iterator[None]:
    """Lay out float32 weights for a CPU's matrix products while a model answers; they must not be written to meanwhile.

    A product first copies the weights into blocks that fit the caches, which for the few tokens of a step of writing
    costs as much as the product, so it is done once. Sums are in another order then: the same to rounding.

    Args:
        targets: regular expression of the linear layers of the language model, whose output layer comes on top.
    """
    inside = (layer for name, layer in core(model).named_modules() if re.fullmatch(targets, name))
    layers = [layer for layer in (*core(model).lm_head.modules(), *inside) if _can_prepack(layer)]
    if sum(layer.weight.nbytes for layer in layers) > UNCHECKED:
        layers = devices.fitting_layers(layers)
    for layer in layers:
        packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        layer.forward = partial(_multiply, layer.weight, layer.bias, packed)
    try:
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _can_prepack(layer: Any) -> bool:
    if type(layer) is not nn.Linear or "forward" in layer.__dict__ or "_linear_pointwise" not in dir(torch.ops.mkldnn):
        return False
    here = (layer.weight.device.type, layer.weight.dtype) == ("cpu", torch.float32)
    return here and torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")


def _multiply(weight: Tensor, bias: Tensor | None, packed: Tensor, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():  # the kernel has no backward pass
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return product
