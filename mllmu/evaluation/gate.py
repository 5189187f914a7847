"""The memorisation gate: nothing can be unlearned that was never learned."""

from collections.abc import Sequence

from mllmu.core.errors import GateError
from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics.right import Right
from mllmu.evaluation.stats import Difference, paired_difference

LEVEL = 0.05


def memorisation(samples: Sequence[Sample], target: Sequence[Response], retain_model: Sequence[Response]) -> Difference:
    """How much more often the target is right on the forget questions than a model that never saw these people.

    difference = mean over questions of [target right] - [retain_model right], clustered by person.

    Args:
        samples: all samples; the forget questions among them are compared, those kept for tuning excepted.
        target: its replies to all samples.
        retain_model: its replies to the same samples.
    """
    asked = [sample for sample in samples if sample.split == "forget" and sample.part == "report"]
    metric = Right()

    def right(responses: Sequence[Response]) -> list[float]:
        replies = {response.sample_id: response for response in responses}
        return [float(metric.score(sample, replies[sample.id]).value or 0.0) for sample in asked]

    return paired_difference(right(target), right(retain_model), [sample.profile_id for sample in asked])


def verdict(difference: Difference) -> str:
    """Empty if the target knows the forget people significantly better; else what is wrong and what to do."""
    if difference.value is not None and difference.value > 0:
        if difference.p_value is not None and difference.p_value < LEVEL:
            return ""
        if difference.num_clusters < 2 and difference.value > 0.2:
            return ""  # one person has no interval; a clear lead is all that can be asked
    interval = "" if difference.low is None else f", 95 % interval {difference.low:.2f} to {difference.high:.2f}"
    value = "unknown" if difference.value is None else f"{difference.value:+.2f}"
    return (
        f"the target is not significantly better on the forget people than the retain_model, which never saw them: "
        f"share of right replies {value}{interval} ({difference.num} questions, {difference.num_clusters} people). "
        "There is nothing to unlearn yet"
    )


def check(difference: Difference) -> None:
    """Raise GateError unless the target has memorised the forget people."""
    fault = verdict(difference)
    if fault:
        raise GateError(
            f"memorisation gate: {fault}. Raise finetune.epochs or finetune.learning_rate; "
            "--no-gate goes on and puts a warning into the report."
        )
