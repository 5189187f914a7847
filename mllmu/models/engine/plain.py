"""Rows without sharing: one per prompt for its reply, one per candidate, one per target for its token statistics.

Shapes: B rows, N labelled tokens of all rows together, V vocabulary, T tokens, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@torch.inference_mode()
def generate(loaded: Loaded, turns: Sequence[Turn], limits: Sequence[int]) -> list[list[int]]:
    """The tokens of greedy replies, all in one batch, by the library's own generation."""
    batch = loaded.encoder.batch(turns, side="left").to(loaded.device)
    output = loaded.model.generate(
        **batch.inputs,
        max_new_tokens=max(limits),
        do_sample=False,
        pad_token_id=loaded.encoder.pad,
        eos_token_id=sorted(loaded.ends),
    )
    rows = output[:, batch.inputs["input_ids"].shape[1] :].tolist()
    return [row[:limit] for row, limit in zip(rows, limits, strict=True)]


@torch.inference_mode()
def score(
    loaded: Loaded,
    turns: Sequence[Turn],
    candidates: Sequence[tuple[int, str]],
    scored: Sequence[Sequence[int]] | None = None,
) -> list[float]:
    """Log-probability in nats of texts behind turns, given by the number of the turn; two rows per turn at a time.

    Args:
        scored: the first tokens of each text, which count; default: all of them and the end.
    """
    logps: list[float] = []
    for start in range(0, len(candidates), max(1, 2 * len(turns))):
        rows = [replace(turns[i], reply=text) for i, text in candidates[start : start + 2 * len(turns)]]
        done = run_forward(loaded.model, loaded.encoder.batch(rows).to(loaded.device))
        if scored is None:
            logps += done.row_logp_B.tolist()
        else:
            tokens = done.token_logp_N.split(done.row_length_B.tolist())  # rows follow each other
            logps += [float(own[: len(ids)].sum()) for own, ids in zip(tokens, scored[start:], strict=False)]
    return logps


def measure(loaded: Loaded, batch: Sequence[Sample], turns: Sequence[Turn]) -> list[TokenStats | None]:
    """Statistics of every sample that asks for them (:attr:`mllmu.core.records.Sample.measured`), None for the others.

    Args:
        turns: the samples as turns, without reply.
    """
    results: list[TokenStats | None] = [None] * len(batch)
    wanted = [row for row, sample in enumerate(batch) if sample.measured]
    for start in range(0, len(wanted), ROWS):
        rows = wanted[start : start + ROWS]
        targets = [replace(turns[row], reply=batch[row].target) for row in rows]
        gradient = any("gradient" in batch[row].measured for row in rows)
        for row, stats in zip(rows, _of_turns(loaded, targets, gradient=gradient), strict=True):
            results[row] = stats
    return results


def _of_turns(loaded: Loaded, turns: Sequence[Turn], *, gradient: bool) -> list[TokenStats]:
    batch = loaded.encoder.batch(turns).to(loaded.device)
    if not gradient:
        with torch.inference_mode():
            return _read(run_forward(loaded.model, batch), None)
    with torch.inference_mode(mode=False), torch.enable_grad(), _from_embeddings(loaded.model) as embeddings:
        forward = run_forward(loaded.model, batch)
        # rows do not touch each other, so the gradient of the sum holds every row's own
        (-forward.mean_logp_B).sum().backward()
        gradient_BTD = embeddings[0].grad
        assert gradient_BTD is not None  # noqa: S101 - the loss depends on the embeddings
        norm_B = gradient_BTD.float().flatten(1).norm(dim=1)
    return _read(forward, norm_B)


@contextmanager
def _from_embeddings(model: Any) -> Iterator[list[Tensor]]:
    """Lets a gradient begin at the embeddings and nowhere else; yields the list that the embeddings are put into."""
    embeddings: list[Tensor] = []
    trained = [p for p in model.parameters() if p.requires_grad]

    def keep(_module: Any, _args: Any, output: Tensor) -> Tensor:
        embeddings.append(output.detach().requires_grad_())
        return embeddings[-1].clone()

    model.requires_grad_(requires_grad=False)
    try:
        with model.get_input_embeddings().register_forward_hook(keep):
            yield embeddings
    finally:
        for parameter in trained:
            parameter.requires_grad_()


@torch.no_grad()
def _read(forward: Forward, norm_B: Tensor | None) -> list[TokenStats]:
    logp_NV = forward.logits_NV.detach().log_softmax(-1)
    p_NV = logp_NV.exp()
    mean_N = (p_NV * logp_NV).sum(-1)
    deviation_N = (p_NV * (logp_NV - mean_N[:, None]).square()).sum(-1).clamp(min=1e-6).sqrt()
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
