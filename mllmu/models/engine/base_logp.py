"""How likely the base model finds what another model said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mllmu.core.records import BaseLogp, CandidateLogp, Response, Sample
from mllmu.models.engine.respond import as_turn, fitting, plan_batches, score_candidates
from mllmu.models.loading import Loaded

REPLY = "reply"


def base_logps(
    loaded: Loaded, samples: Sequence[Sample], replies: Sequence[Response], *, image_folder: Path, batch_size: int
) -> Iterator[BaseLogp]:
    """Log-probability of each reply behind its question (and image), summed over its tokens and the end, in nats.

    Empty replies and replies to raw prompts are left out. The system prompt of the model that replied is
    not put before the question: the base is asked as everybody is.

    Args:
        samples: the questions of the replies.
        image_folder: the folder that the samples' image paths are relative to.
    """
    said = {reply.sample_id: reply.text for reply in replies if reply.text.strip()}
    asked = [
        s.model_copy(update={"candidates": {REPLY: said[s.id]}}) for s in samples if s.id in said and not s.raw_prompt
    ]
    batches = plan_batches(asked, batch_size)

    def score(batch: Sequence[Sample]) -> list[dict[str, CandidateLogp]]:
        return score_candidates(loaded, batch, [as_turn(sample, image_folder, "") for sample in batch])

    for batch, found in fitting(batches, score):
        for sample, known in zip(batch, found, strict=True):
            yield BaseLogp(sample_id=sample.id, logp=known[REPLY].logp, num_tokens=known[REPLY].num_tokens)
