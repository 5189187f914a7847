"""Base log-probabilities: of the models' responses under the base model, for the metrics that compare with it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mllmu.core.records import BaseLogp, Response, Sample
from mllmu.core.runfolder import RunFolder, dump_lines, write_atomic
from mllmu.evaluation.metrics import Metric
from mllmu.models.encoding import Loaded, as_turn
from mllmu.models.engine import plain
from mllmu.models.engine.respond import fitting, plan_batches
from mllmu.pipeline.evaluate import Evaluation


def score_under_base(evaluation: Evaluation, models: Sequence[str], metrics: Sequence[Metric]) -> None:
    """Compute the base log-probabilities of the models' responses, if a metric needs them."""
    wanted = [metric for metric in metrics if metric.needs_base_logp]
    tasks = {task for task in {s.task for s in evaluation.samples} if any(metric.concerns(task) for metric in wanted)}
    missing = [model for model in models if tasks and not evaluation.base_logp_unit(model).done]
    if not missing:
        return
    run = evaluation.run
    base = run.load(run.base)
    samples = [sample for sample in evaluation.samples if sample.task in tasks]
    run.progress.start("responses under the base model", len(missing))
    for model in missing:
        unit = evaluation.base_logp_unit(model)
        with unit.making():
            logps = base_logps(
                base,
                samples,
                evaluation.responses(model),
                image_folder=run.root / RunFolder.DATA,
                batch_size=run.recipe.evaluate.planned_batch_size,
            )
            write_atomic(unit.building / RunFolder.BASE_LOGP_FILE, dump_lines(logps))
        run.progress.advance(1)
    run.progress.finish()


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
        return plain.score(loaded, turns, [(i, replies[sample.id]) for i, sample in enumerate(batch)])

    for batch, logps in fitting(plan_batches(answered, batch_size), run):
        for sample, logp in zip(batch, logps, strict=True):
            num_tokens = len(loaded.encoder.reply(replies[sample.id]))
            yield BaseLogp(sample_id=sample.id, logp=round(logp, 6), num_tokens=num_tokens)
