"""Other ways to choose the words of a reply than the likeliest one at each place."""

from collections.abc import Sequence
from typing import Any

import torch

from mllmu.core.process import derive
from mllmu.core.records import Response
from mllmu.evaluation.attacks import AttackPoint, Sample, Victim, best
from mllmu.models.encoding import as_turn
from mllmu.models.engine.respond import limit_of

ROWS = 32
"""Prompts of a batch times replies to each."""


@torch.inference_mode()
def generated(victim: Victim, replies: int, **how: Any) -> AttackPoint:
    """Hits among so many replies to every question, by the library's own generation.

    Args:
        how: further arguments of ``generate``; what is random depends on seed and batch alone.
    """
    loaded = victim.load(victim.ref)
    encoder, hits = loaded.encoder, dict[str, float]()
    asked, said = list[Sample](), list[Response]()
    size = max(1, ROWS // replies)
    ordered = sorted(victim.samples, key=lambda sample: (sample.modality, sample.image, sample.id))
    for start in range(0, len(ordered), size):
        batch: Sequence[Sample] = ordered[start : start + size]
        torch.manual_seed(derive(victim.seed, "generate", start))
        turns = [as_turn(sample, victim.data.folder, victim.ref.system_prompt) for sample in batch]
        encoded = encoder.batch(turns, side="left").to(loaded.device)
        lengths = map(len, map(encoder.prompt, turns))  # a reply never depends on the other questions of its batch
        limits = {s.id: encoder.room(n, limit_of(encoder, s)) for n, s in zip(lengths, batch, strict=True)}
        output = loaded.model.generate(
            **encoded.inputs,
            max_new_tokens=max(limits.values()),
            num_return_sequences=replies,
            pad_token_id=encoder.pad,
            eos_token_id=sorted(loaded.ends),
            **how,
        )
        rows = output[:, encoded.inputs["input_ids"].shape[1] :].tolist()
        many = [sample for sample in batch for _ in range(replies)]
        cut = [row[: limits[sample.id]] for row, sample in zip(rows, many, strict=True)]
        texts = [
            encoder.processor.tokenizer.decode(_until_end(row, loaded.ends), skip_special_tokens=True) for row in cut
        ]
        made = [
            Response(sample_id=sample.id, text=text.strip(), num_tokens=0, finished=True)
            for sample, text in zip(many, texts, strict=True)
        ]
        hits |= best(many, made)
        asked, said = [*asked, *many], [*said, *made]
    victim.keep(asked, said)
    return AttackPoint(values=hits)


def _until_end(row: Sequence[int], ends: frozenset[int]) -> list[int]:
    return list(row[: next((index for index, token in enumerate(row) if token in ends), len(row))])
