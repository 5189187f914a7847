"""Reply to samples: greedy replies and the log-probability of every candidate, in batches.

This is the only evaluation step that needs a model. Replies do not depend on the batch size: padding is masked, and
rows are independent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.records import CandidateLogp, Response, Sample
from mllmu.training.forward import run_forward


def plan_batches(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """Group samples into batches of one task and modality and of similar length; the plan is always the same."""
    groups: dict[tuple[str, str, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.task, sample.modality, sample.max_new_tokens), []).append(sample)
    batches = []
    for key in sorted(groups):
        members = sorted(groups[key], key=lambda s: (len(s.prompt), s.id))
        batches += [members[i : i + batch_size] for i in range(0, len(members), batch_size)]
    return batches


def respond(
    loaded: Loaded, batches: Sequence[Sequence[Sample]], *, images: Path, guard: str = ""
) -> Iterator[list[Response]]:
    """Reply to each batch in turn.

    Args:
        images: the folder that the samples' picture paths are relative to.
        guard: system prompt put before every sample's own.
    """
    for batch in batches:
        turns = [as_turn(sample, images, guard) for sample in batch]
        replies = generate(loaded, turns, batch[0].max_new_tokens)
        logps = score_candidates(loaded, batch, turns)
        yield [
            Response(sample_id=sample.id, text=text, num_tokens=count, finished=finished, candidates=scored)
            for sample, (text, count, finished), scored in zip(batch, replies, logps, strict=True)
        ]


def as_turn(sample: Sample, images: Path, guard: str) -> Turn:
    """The turn a sample is put as, without reply."""
    system = "\n".join(part for part in (guard, sample.system) if part)
    return Turn(prompt=sample.prompt, image=images / sample.image if sample.image else None, system=system)


@torch.inference_mode()
def generate(loaded: Loaded, turns: Sequence[Turn], max_new_tokens: int) -> list[tuple[str, int, bool]]:
    """Greedy replies: text, number of tokens (end-of-sequence not counted), and whether it ended by itself."""
    batch = loaded.encoder.batch(turns, side="left").to(loaded.device)
    tokenizer = loaded.encoder.processor.tokenizer
    output = loaded.model.generate(
        **batch.inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )
    replies = []
    for row in output[:, batch.inputs["input_ids"].shape[1] :].tolist():
        finished = tokenizer.eos_token_id in row
        ids = row[: row.index(tokenizer.eos_token_id)] if finished else row
        replies.append((tokenizer.decode(ids, skip_special_tokens=True).strip(), len(ids), finished))
    return replies


@torch.inference_mode()
def score_candidates(loaded: Loaded, batch: Sequence[Sample], turns: Sequence[Turn]) -> list[dict[str, CandidateLogp]]:
    """Summed log-probability of every candidate of every sample; equal candidates are run once."""
    wanted = [(i, text) for i, sample in enumerate(batch) for text in dict.fromkeys(sample.candidates.values())]
    known: dict[tuple[int, str], CandidateLogp] = {}
    for start in range(0, len(wanted), max(1, 2 * len(batch))):
        chunk = wanted[start : start + 2 * len(batch)]
        rows = [_with_reply(turns[i], text) for i, text in chunk]
        forward = run_forward(loaded.model, loaded.encoder.batch(rows).to(loaded.device))
        sums, lengths = forward.row_logp_B.tolist(), forward.row_length_B.tolist()
        for key, logp, length in zip(chunk, sums, lengths, strict=True):
            known[key] = CandidateLogp(logp=round(float(logp), 6), num_tokens=int(length))
    return [{key: known[i, text] for key, text in sample.candidates.items()} for i, sample in enumerate(batch)]


def _with_reply(turn: Turn, reply: str) -> Turn:
    return Turn(prompt=turn.prompt, image=turn.image, system=turn.system, reply=reply)
