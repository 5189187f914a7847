"""The memorisation gate: nothing can be unlearned that was never learned."""

from collections.abc import Sequence

from mllmu.core.errors import GateError
from mllmu.core.records import Response, Sample
from mllmu.evaluation.metrics.right import Right
from mllmu.evaluation.stats import Difference, paired_difference

LEVEL = 0.05
FEW_PEOPLE = 5
"""Up to so many people, the gate compares questions about these people; with more, people."""
FEWEST_FACTS = 5
"""0.5^5 is below the level: so many facts must be known better before it can be no accident."""


def memorisation(samples: Sequence[Sample], target: Sequence[Response], retain_model: Sequence[Response]) -> Difference:
    """How much more often the target is right on the forget questions than a model that never saw these people.

    difference = mean over questions of [target right] - [retain_model right]. Its interval and p-value take the person
    as the unit, so they are about people like these. Five people or fewer could not be told from luck that way: then
    the unit is the fact (all questions about one attribute of a person, which are right or wrong together), and with
    fewer than five facts the question; both are about these people alone.

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

    people = [sample.profile_id for sample in asked]
    facts = [f"{sample.profile_id} {sample.attribute}" for sample in asked]
    unit, clusters = "people", people
    if len(set(people)) <= FEW_PEOPLE:
        unit, clusters = ("facts", facts) if len(set(facts)) >= FEWEST_FACTS else ("questions", [s.id for s in asked])
    return paired_difference(right(target), right(retain_model), clusters)._replace(unit=unit)


def verdict(difference: Difference) -> str:
    """Empty if the target knows the forget people significantly better; else what is wrong and what to do."""
    if difference.p_value is not None and difference.p_value < LEVEL:
        return ""
    return (
        "the target is not significantly better on the forget people than the retain_model, which never saw them: "
        f"{describe(difference)}. There is nothing to unlearn yet"
    )


def describe(difference: Difference) -> str:
    """The comparison in words: how large, how certain, and what it is about."""
    if difference.value is None or difference.low is None or difference.high is None or difference.p_value is None:
        return "share of right replies unknown (no questions)"
    alone = "" if difference.unit == "people" else " about these people alone"
    return (
        f"share of right replies {difference.value:+.2f}, 95 % interval {difference.low:.2f} to {difference.high:.2f}, "
        f"p = {difference.p_value:.2g} ({difference.num} questions, compared by {difference.num_clusters} "
        f"{difference.unit}{alone})"
    )


def check(difference: Difference) -> None:
    """Raise GateError unless the target has memorised the forget people."""
    fault = verdict(difference)
    if fault:
        raise GateError(
            f"memorisation gate: {fault}. Raise finetune.epochs or finetune.learning_rate; "
            "--no-gate goes on and puts a warning into the report."
        )
