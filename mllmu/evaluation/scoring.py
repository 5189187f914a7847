"""From replies to numbers: judge every reply, average by group, and add the rows that need no model.

No model is loaded here, so a new metric can be computed on old replies at any time.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mllmu.core import plugins
from mllmu.core.declared import Declared, SplitInfo, TableSpec, TaskInfo
from mllmu.core.errors import DataError
from mllmu.core.records import (
    MODALITIES,
    PEOPLE_SPLITS,
    TASKS,
    MetricResult,
    Modality,
    Question,
    Response,
    Sample,
    Score,
    Split,
    TaskName,
    ordered,
)
from mllmu.data.tasks import Part
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.stats import Estimate, clustered_mean, ks_distance

Group = tuple[Split, TaskName, Modality]


def score_all(samples: Sequence[Sample], responses: Iterable[Response], metrics: Sequence[Metric]) -> list[Score]:
    """Judge the reply to every sample by every metric that applies to its task, in the order of the samples.

    A sample without a reply is scored None with the reason 'no response', never 0.

    Raises:
        DataError: a reply belongs to no sample, a sample or reply or metric occurs twice.
    """
    known = _by_id(samples)
    _unique((metric.name for metric in metrics), "metrics")
    replies: dict[str, Response] = {}
    for response in responses:
        if response.sample_id not in known:
            raise DataError(
                f"responses: '{response.sample_id}' is not among the {len(known)} samples. The replies belong to "
                "other samples; run the evaluation stage again with --force."
            )
        if response.sample_id in replies:
            raise DataError(f"responses: two replies to '{response.sample_id}', expected one a sample.")
        replies[response.sample_id] = response
    return [
        metric.score(sample, replies.get(sample.id))
        for sample in samples
        for metric in metrics
        if metric.judges(sample.split, sample.task)
    ]


def aggregate(
    model: str,
    samples: Sequence[Sample],
    scores: Iterable[Score],
    metrics: Sequence[Metric],
    *,
    part: Part = "report",
) -> list[MetricResult]:
    """Average the scores of one model by (metric, split, task, modality).

    Args:
        model: name of the model in the results.
        samples: every sample the scores belong to.
        scores: what :func:`score_all` returned for these samples and metrics; scores of other metrics are left out.
        metrics: what to average, in the order of the results.
        part: which samples count; ``report`` unless a setting is being tuned.

    Returns:
        One result per metric and group that has samples; ``value`` None where nothing could be judged.

    Raises:
        DataError: a score of an unknown sample, two scores for one sample and metric, or a score is missing.
    """
    values = values_by_metric(scores, _by_id(samples))
    groups = _groups(sample for sample in samples if sample.part == part)
    return [
        _result(model, metric, group, members, values.get(metric.name, {}))
        for metric in metrics
        for group, members in groups.items()
        if metric.judges(group[0], group[1])
    ]


def baselines(
    samples: Sequence[Sample], train_questions: Iterable[Question], *, part: Part = "report"
) -> list[MetricResult]:
    """Multiple choice accuracy without any model, as rows ``chance`` and ``majority``.

    chance: mean of 1 / number of options. majority: always choose the option whose value most people have in the
    target's training data, by attribute; where several options tie, the expected accuracy of guessing among them.
    Accuracy near the majority row means that the questions can be answered without knowing the person.

    Args:
        samples: rendered samples; only classification counts.
        train_questions: what the target was fine-tuned on; a person counts once per attribute and value.
        part: which samples count.
    """
    people = {(q.profile_id, q.attribute, _plain(q.value)) for q in train_questions}
    counts = Counter((attribute, value) for _, attribute, value in people)
    groups = _groups(s for s in samples if s.part == part and s.task == "classification")
    guesses: dict[str, Callable[[Sample], float]] = {
        "chance": lambda sample: 1 / len(sample.options),
        "majority": lambda sample: _majority_value(sample, counts),
    }
    return [
        _baseline(name, group, members, [value(sample) for sample in members])
        for name, value in guesses.items()
        for group, members in groups.items()
    ]


def declared(
    results: Iterable[MetricResult],
    *,
    parser: str,
    benchmarks: Mapping[Split, SplitInfo],
    tables: Sequence[TableSpec],
) -> Declared:
    """What the plug-ins behind some results say about them, for ``metrics.json``.

    Args:
        parser: the protocol's reading of replies, which decides the headline metrics.
        benchmarks: what the general benchmarks that were asked say about their sets.
        tables: of the summaries.
    """
    metrics, tasks, splits = (
        list(dict.fromkeys(names)) for names in zip(*((r.metric, r.task, r.split) for r in results), strict=True)
    )
    plugged = {task: plugins.find("tasks", task) for task in ordered(tasks, TASKS)}
    return Declared(
        metrics={name: plugins.build("metrics", name, {}).info() for name in metrics},
        tasks={name: TaskInfo(label=task.label, metric=task.headline(parser)) for name, task in plugged.items()},
        splits={
            split: benchmarks.get(split) or SplitInfo(label=split.capitalize())
            for split in ordered(splits, PEOPLE_SPLITS)
        },
        tables=tuple(tables),
    )


def ks_to_retain_model(
    samples: Sequence[Sample],
    scores_model: Iterable[Score],
    scores_retain_model: Iterable[Score],
    *,
    metric: str = "truth_ratio",
    task: TaskName = "generation",
    part: Part = "report",
) -> dict[tuple[Split, Modality], float]:
    """How far a model's score distribution is from the retain_model's: KS distance by split and modality.

    On forget and test, 0 means that the model cannot be told from one that never saw these people. A distance and not
    a p-value, so it does not depend on the number of questions.

    Args:
        samples: the samples both models answered.
        scores_model: scores of the model.
        scores_retain_model: scores of the retain_model for the same samples.
        metric: whose values are compared; needs many different values, like truth_ratio.
        task: which samples are compared; tasks are not pooled, their ratios differ in scale.
        part: which samples count.

    Returns:
        Distance in [0, 1] for every (split, modality) in which both models have a judged value; others are left out.

    Raises:
        DataError: a score of an unknown sample, or the two models were not scored on the same samples.
    """
    known = _by_id(samples)
    first = values_by_metric(scores_model, known).get(metric, {})
    second = values_by_metric(scores_retain_model, known).get(metric, {})
    if set(first) != set(second):
        odd = min(set(first) ^ set(second))
        raise DataError(f"KS distance of {metric}: only one of the two models was scored on '{odd}'. Score both again.")
    distances: dict[tuple[Split, Modality], float] = {}
    for (split, _, modality), members in _groups(s for s in samples if s.part == part and s.task == task).items():
        ours = [value for s in members if (value := first.get(s.id)) is not None]
        theirs = [value for s in members if (value := second.get(s.id)) is not None]
        if ours and theirs:
            distances[split, modality] = ks_distance(ours, theirs)
    return distances


def _by_id(samples: Sequence[Sample]) -> dict[str, Sample]:
    _unique((sample.id for sample in samples), "samples")
    return {sample.id: sample for sample in samples}


def _unique(names: Iterable[str], where: str) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{where}: '{twice[0]}' occurs more than once, expected distinct names.")


def values_by_metric(scores: Iterable[Score], known: Mapping[str, Sample]) -> dict[str, dict[str, float | None]]:
    """Metric -> sample id -> value; refuses scores of unknown samples and second scores."""
    values: defaultdict[str, dict[str, float | None]] = defaultdict(dict)
    for score in scores:
        if score.sample_id not in known:
            raise DataError(f"scores: '{score.sample_id}' is not among the {len(known)} samples. Score again.")
        if score.sample_id in values[score.metric]:
            raise DataError(f"scores: two scores of {score.metric} for '{score.sample_id}', expected one.")
        values[score.metric][score.sample_id] = score.value
    return values


def _groups(samples: Iterable[Sample]) -> dict[Group, list[Sample]]:
    """Samples by (split, task, modality), the groups in a fixed order."""
    found: defaultdict[Group, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.split, sample.task, sample.modality].append(sample)
    splits, tasks = ordered((g[0] for g in found), PEOPLE_SPLITS), ordered((g[1] for g in found), TASKS)
    every: Iterator[Group] = itertools.product(splits, tasks, MODALITIES)
    return {group: found[group] for group in every if group in found}


def _result(
    model: str, metric: Metric, group: Group, members: Sequence[Sample], values: Mapping[str, float | None]
) -> MetricResult:
    """Average one metric over one group, counting what could not be judged instead of scoring it."""
    if missing := [sample.id for sample in members if sample.id not in values]:
        raise DataError(f"scores: no score of {metric.name} for '{missing[0]}' ({len(missing)} missing). Score again.")
    judged = [(sample.profile_id, value) for sample in members if (value := values[sample.id]) is not None]
    estimate = metric.aggregate([value for _, value in judged], [person for person, _ in judged], split=group[0])
    return _row(model, metric.name, group, estimate, num_unparsed=len(members) - len(judged))


def _row(model: str, metric: str, group: Group, estimate: Estimate, *, num_unparsed: int = 0) -> MetricResult:
    split, task, modality = group
    return MetricResult(
        model=model,
        metric=metric,
        split=split,
        task=task,
        modality=modality,
        value=estimate.value,
        ci_low=estimate.low,
        ci_high=estimate.high,
        num=estimate.num,
        num_unparsed=num_unparsed,
        num_profiles=estimate.num_clusters,
    )


def _baseline(model: str, group: Group, members: Sequence[Sample], values: Sequence[float]) -> MetricResult:
    estimate = clustered_mean(values, [sample.profile_id for sample in members])
    if model == "chance":  # known exactly, so an interval would claim a doubt that does not exist
        estimate = estimate._replace(low=None, high=None)
    return _row(model, "accuracy", group, estimate)


def _majority_value(sample: Sample, counts: Mapping[tuple[str, str], int]) -> float:
    """Expected score of choosing the most frequent option value."""
    frequency = {letter: counts.get((sample.attribute, _plain(value)), 0) for letter, value in sample.options.items()}
    best = [letter for letter, count in frequency.items() if count == max(frequency.values())]
    return 1 / len(best) if sample.target in best else 0.0


def _plain(value: str) -> str:
    return value.strip().lower()
