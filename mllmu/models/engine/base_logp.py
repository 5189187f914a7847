"""How likely the base model finds the replies of another model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mllmu.core.records import BaseLogp, Response, Sample
from mllmu.models.engine.plain import score
from mllmu.models.engine.respond import as_turn, fitting, plan_batches
from mllmu.models.loading import Loaded


def base_logps(
    loaded: Loaded, samples: Sequence[Sample], responses: Sequence[Response], *, image_folder: Path, batch_size: int
) -> Iterator[BaseLogp]:
    """Log-probability of each reply behind its question (and image), summed over its tokens and the end, in nats.

    Empty replies and replies to raw prompts are left out. The system prompt of the model that replied is not put before
    the question: the base gets the same question as every model.

    Args:
        samples: the questions of the replies.
        image_folder: the folder that the samples' image paths are relative to.
    """
    replies = {response.sample_id: response.text for response in responses if response.text.strip()}
    answered = [sample for sample in samples if sample.id in replies and not sample.raw_prompt]

    def run(batch: Sequence[Sample]) -> list[float]:
        turns = [as_turn(sample, image_folder, "") for sample in batch]
        return score(loaded, turns, [(i, replies[sample.id]) for i, sample in enumerate(batch)])

    for batch, logps in fitting(plan_batches(answered, batch_size), run):
        for sample, logp in zip(batch, logps, strict=True):
            num_tokens = len(loaded.encoder.reply(replies[sample.id]))
            yield BaseLogp(sample_id=sample.id, logp=round(logp, 6), num_tokens=num_tokens)
