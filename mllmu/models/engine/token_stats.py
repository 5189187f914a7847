"""The target of a sample under teacher forcing, token by token: for memorisation and membership metrics.

Shapes: B rows, N labelled tokens of all rows together, V vocabulary, T tokens, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mllmu.core.records import Sample, TokenStats
from mllmu.models.engine.forward import Forward, run_forward
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded

ROWS = 32
"""Rows of a pass: the whole vocabulary is kept for each of their answer tokens."""
DIGITS = 4


def measure(loaded: Loaded, batch: Sequence[Sample], turns: Sequence[Turn]) -> list[TokenStats | None]:
    """Statistics of every sample that asks for them (:attr:`mllmu.core.records.Sample.measured`), None for the others.

    Args:
        turns: how the samples are put, without reply.
    """
    found: list[TokenStats | None] = [None] * len(batch)
    wanted = [row for row, sample in enumerate(batch) if sample.measured]
    for start in range(0, len(wanted), ROWS):
        rows = wanted[start : start + ROWS]
        asked = [replace(turns[row], reply=batch[row].target) for row in rows]
        gradient = any("gradient" in batch[row].measured for row in rows)
        for row, stats in zip(rows, _of_turns(loaded, asked, gradient=gradient), strict=True):
            found[row] = stats
    return found


def _of_turns(loaded: Loaded, turns: Sequence[Turn], *, gradient: bool) -> list[TokenStats]:
    batch = loaded.encoder.batch(turns).to(loaded.device)
    if not gradient:
        with torch.inference_mode():
            return _read(run_forward(loaded.model, batch), None)
    with torch.inference_mode(mode=False), torch.enable_grad(), _Embeddings(loaded.model) as seen:
        forward = run_forward(loaded.model, batch)
        # rows do not touch each other, so the gradient of the sum holds every row's own
        (-forward.row_logp_B / forward.row_length_B).sum().backward()
        gradient_BTD = seen[0].grad
        assert gradient_BTD is not None  # noqa: S101 - the loss depends on the embeddings
        norm_B = gradient_BTD.float().flatten(1).norm(dim=1)
    return _read(forward, norm_B)


class _Embeddings:
    """Lets a gradient begin at the embeddings and nowhere else; gives the list they are put into."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.seen: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.model.requires_grad_(requires_grad=False)
        self.handle = self.model.get_input_embeddings().register_forward_hook(self._keep)
        return self.seen

    def _keep(self, module: Any, args: Any, output: Tensor) -> Tensor:
        del module, args
        kept = output.detach().requires_grad_()
        self.seen.append(kept)
        return kept.clone()

    def __exit__(self, *error: object) -> None:
        self.handle.remove()
        for parameter in self.trained:
            parameter.requires_grad_()


@torch.no_grad()
def _read(forward: Forward, norm_B: Tensor | None) -> list[TokenStats]:
    logp_NV = forward.logits_NV.detach().log_softmax(-1)
    p_NV = logp_NV.exp()
    mean_N = (p_NV * logp_NV).sum(-1)
    deviation_N = ((p_NV * logp_NV.square()).sum(-1) - mean_N.square()).clamp(min=1e-12).sqrt()
    logp_N = logp_NV.gather(1, forward.labels_N[:, None])[:, 0]
    z_N = (logp_N - mean_N) / deviation_N
    hit_N = logp_NV.argmax(-1) == forward.labels_N
    stats = []
    for row in range(forward.num_rows):
        own = forward.row_N == row
        stats.append(
            TokenStats(
                logps=tuple(round(value, DIGITS) for value in logp_N[own].tolist()),
                hits="".join("1" if hit else "0" for hit in hit_N[own].tolist()),
                z=tuple(round(value, DIGITS) for value in z_N[own].tolist()),
                gradient_norm=None if norm_B is None else float(f"{norm_B[row].item():.6g}"),
            )
        )
    return stats
