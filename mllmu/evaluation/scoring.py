"""From responses to numbers: score every response and average by metric, set, task and modality.

No model is loaded here, so a new metric can be computed on old replies at any time.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from mllmu.core.errors import DataError
from mllmu.core.records import MODALITIES, PEOPLE_SPLITS, TASKS, Cell, MetricResult, Response, Sample, Score, Split
from mllmu.data.tasks import Part
from mllmu.evaluation.metrics import Estimate, Metric


def score_all(samples: Sequence[Sample], responses: Iterable[Response], metrics: Sequence[Metric]) -> list[Score]:
    """Judge the reply to every sample by every metric that applies to its task, in the order of the samples.

    A sample without a reply is scored None with the reason 'no response', never 0.

    Raises:
        DataError: a reply belongs to no sample, a sample or reply or metric occurs twice.
    """
    known = samples_by_id(samples)
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
    model: str, samples: Sequence[Sample], scores: Iterable[Score], metrics: Sequence[Metric], *, part: Part = "report"
) -> list[MetricResult]:
    """Average the scores of one model by metric, split, task and modality.

    Args:
        model: name of the model in the results.
        samples: every sample the scores belong to.
        scores: what :func:`score_all` returned for these samples and metrics; scores of other metrics are left out.
        metrics: what to average, in the order of the results.
        part: which samples count; ``report`` unless a setting is being tuned.

    Returns:
        One result per metric and cell that has samples; ``value`` None where nothing could be judged.

    Raises:
        DataError: a score of an unknown sample, two scores for one sample and metric, or a score is missing.
    """
    values = values_by_metric(scores, samples_by_id(samples))
    cells = by_cell(sample for sample in samples if sample.part == part)
    return [
        _result(model, metric, cell, members, values.get(metric.name, {}))
        for metric in metrics
        for cell, members in cells.items()
        if metric.judges(cell.split, cell.task)
    ]


def samples_by_id(samples: Sequence[Sample]) -> dict[str, Sample]:
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


def by_cell(samples: Iterable[Sample]) -> dict[Cell, list[Sample]]:
    """Samples by split, task and modality, in a fixed order."""
    found: defaultdict[Cell, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[Cell(sample.split, sample.task, sample.modality)].append(sample)
    splits, tasks = ordered(c.split for c in found), ordered((c.task for c in found), TASKS)
    every = itertools.starmap(Cell, itertools.product(splits, tasks, MODALITIES))
    return {cell: found[cell] for cell in every if cell in found}


def _result(
    model: str, metric: Metric, cell: Cell, members: Sequence[Sample], values: Mapping[str, float | None]
) -> MetricResult:
    """Average one metric over one cell, counting what could not be judged instead of scoring it."""
    if missing := [sample.id for sample in members if sample.id not in values]:
        raise DataError(f"scores: no score of {metric.name} for '{missing[0]}' ({len(missing)} missing). Score again.")
    found = [(sample.profile_id, values[sample.id]) for sample in members]
    judged = [(person, value) for person, value in found if value is not None]
    row = result_row(model, metric.name, cell, _estimate(metric, judged, cell.split), len(members) - len(judged))
    if not metric.bounded:
        return row
    worst, best = (
        _estimate(metric, [(person, unread if value is None else value) for person, value in found], cell.split)
        for unread in metric.unread(cell.split)
    )
    counted = {"worst": worst.value, "worst_low": worst.low, "worst_high": worst.high, "best": best.value}
    return row.model_copy(update=counted)


def _estimate(metric: Metric, values: Sequence[tuple[str, float]], split: Split) -> Estimate:
    return metric.aggregate([value for _, value in values], [person for person, _ in values], split=split)


def result_row(model: str, metric: str, cell: Cell, estimate: Estimate, num_unparsed: int = 0) -> MetricResult:
    return MetricResult(
        model=model,
        metric=metric,
        **cell._asdict(),
        value=estimate.value,
        ci_low=estimate.low,
        ci_high=estimate.high,
        num=estimate.num,
        num_unparsed=num_unparsed,
        num_profiles=estimate.num_clusters,
    )


def ordered(found: Iterable[str], first: Sequence[str] = PEOPLE_SPLITS) -> list[str]:
    """Distinct names in the order of tables: those of ``first`` in its order, then the others as they come.

    >>> ordered(["mmlu", "retain", "forget", "mmlu"])
    ['forget', 'retain', 'mmlu']
    """
    distinct = dict.fromkeys(found)
    return [*(name for name in first if name in distinct), *(name for name in distinct if name not in first)]
