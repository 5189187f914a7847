"""Attention to some of the keys, and what several such parts make together.

Attention to keys that lie in several places is the mean of what each place gives, by the weight that it has in the
softmax over all of them::

    out = sum_e exp(s_e) out_e / sum_e exp(s_e),    s_e = log sum_k exp(score(q, k)), k the keys of place e

with score(q, k) = scale q.k, or cap tanh(scale q.k / cap) where a layer bounds its scores.

Shapes: G groups of tokens that attend to the same keys, W tokens and S keys of a group, M tokens of all groups, H
heads, K heads of keys, D size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FEW = 8
"""Tokens below one node for which the plain kernel is quicker than the fused one."""
MOST_SCORES = 2**26
"""Attention weights that are in memory at a time where no fused kernel is used."""


class Rule(NamedTuple):
    """How a layer attends: factor of its scores, how far back it sees, and the bound of its scores; None for no end."""

    scale: float
    window: int | None = None
    softcap: float | None = None


def weigh(
    q_GHWD: Tensor, k_GKSD: Tensor, v_GKSD: Tensor, rule: Rule, mask: Tensor | None, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Attention to some keys, [G, H, W, D], and the logarithm of the sum of the weights' exponentials, [G, H, W].

    Args:
        mask: [G, 1, 1 or W, S], is added to the scores.
        causal: W = S, and a token sees none that come later.
    """
    shape = q_GHWD.shape
    fold = shape[1] // k_GKSD.shape[1]
    if fold > 1 and causal:
        k_GKSD, v_GKSD = (x.repeat_interleave(fold, dim=1) for x in (k_GKSD, v_GKSD))
    elif fold > 1:  # heads that share keys become further tokens
        q_GHWD = q_GHWD.reshape(shape[0], shape[1] // fold, fold * shape[2], shape[3])
        mask = mask.repeat(1, 1, fold, 1) if mask is not None and mask.shape[2] > 1 else mask
    if q_GHWD.device.type == "cpu" and q_GHWD.shape[2] > FEW and rule.softcap is None:
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q_GHWD, k_GKSD, v_GKSD, 0.0, causal, attn_mask=mask, scale=rule.scale
        )
    else:
        mask = _behind(shape[2], q_GHWD) if causal else mask
        out, weight = _plain(q_GHWD * rule.scale, k_GKSD, v_GKSD, mask, rule.softcap)
    return out.reshape(shape), weight.reshape(shape[:3])


def _behind(width: int, like: Tensor) -> Tensor:
    lowest = torch.full((width, width), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
    return lowest.triu(1)[None, None]


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, softcap: float | None = None) -> tuple[Tensor, Tensor]:
    """The same without a fused kernel, some tokens at a time, so that not all weights are in memory."""
    step = max(1, MOST_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    found = []
    for start in range(0, q.shape[2], step):
        scores = q[:, :, start : start + step] @ k.mT
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if mask is not None:
            scores += mask if mask.shape[2] == 1 else mask[:, :, start : start + step]
        scores = scores.float()
        top = scores.amax(-1, keepdim=True)
        weights = scores.sub_(top).exp_()
        total = weights.sum(-1, keepdim=True)
        found.append((((weights.to(v.dtype) @ v) / total.to(v.dtype)), (top + total.log())[..., 0]))
    if len(found) == 1:
        return found[0]
    return torch.cat([out for out, _ in found], dim=2), torch.cat([weight for _, weight in found], dim=2)


def join(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """[M, H, D] the levels' outputs, each by its share of all weight."""
    if len(parts) == 1:
        return parts[0][0]
    share_EMH = torch.stack([weight for _, weight in parts]).softmax(0)
    joined = parts[0][0] * share_EMH[0, ..., None].to(parts[0][0].dtype)
    for (out, _), share in zip(parts[1:], share_EMH[1:], strict=True):
        joined.addcmul_(out, share[..., None].to(out.dtype))
    return joined
