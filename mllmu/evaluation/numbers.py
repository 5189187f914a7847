"""What ``metrics.json`` holds beside averages: rows without a model, distances to the retain model, declarations."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from mllmu.core import plugins
from mllmu.core.declared import Declared, SplitInfo, TableSpec
from mllmu.core.records import TASKS, Cell, MetricResult, Question, Sample, Split, Summary
from mllmu.data.tasks import task_of
from mllmu.evaluation.metrics import clustered_mean
from mllmu.evaluation.scoring import by_cell, ordered, result_row
from mllmu.evaluation.stats import ks_distance
from mllmu.evaluation.summaries import ScoredRun

KS = "ks_to_retain_model"
"""Name of the distances to the retain model in ``metrics.json``, and of their rows among the summaries of a report."""


def baselines(samples: Sequence[Sample], train_questions: Iterable[Question]) -> list[MetricResult]:
    """Multiple choice accuracy without any model, as rows ``chance``, ``best_constant`` and ``majority``.

    chance: mean of 1 / number of options. best_constant: the best answer that is the same to every question of the
    cell, the letter that is right most often. majority: always choose the option whose value most people have in the
    target's training data, by attribute; where several options tie, the expected accuracy of guessing among them.
    The rows are of the task's first metric. Accuracy near the majority row means that the questions can be answered
    without knowing the person.

    Args:
        samples: rendered samples; only those of the part ``report`` with options count.
        train_questions: what the target was fine-tuned on; a person counts once per attribute and value.
    """
    people = {(q.profile_id, q.attribute, _plain(q.value)) for q in train_questions}
    counts = Counter((attribute, value) for _, attribute, value in people)
    cells = by_cell(s for s in samples if s.part == "report" and s.options)
    commonest = {cell: Counter(s.target for s in members).most_common(1)[0][0] for cell, members in cells.items()}
    guesses: dict[str, Callable[[Sample, str], float]] = {
        "chance": lambda sample, _: 1 / len(sample.options),
        "best_constant": lambda sample, letter: float(sample.target == letter),
        "majority": lambda sample, _: _majority_value(sample, counts),
    }
    return [
        _baseline(name, cell, members, [value(sample, commonest[cell]) for sample in members])
        for name, value in guesses.items()
        for cell, members in cells.items()
    ]


def declared(
    results: Sequence[MetricResult], *, parser: str, benchmarks: Mapping[Split, SplitInfo], tables: Sequence[TableSpec]
) -> Declared:
    """What the plug-ins behind some results say about them, for ``metrics.json``.

    Args:
        parser: the protocol's reading of replies, which decides the headline metrics.
        benchmarks: what the general benchmarks that were asked say about their sets.
        tables: of the summaries.
    """
    return Declared(
        metrics={name: plugins.build("metrics", name, {}).info() for name in dict.fromkeys(r.metric for r in results)},
        tasks={task: task_of(task).info(parser) for task in ordered((r.task for r in results), TASKS)},
        splits={
            split: benchmarks.get(split) or SplitInfo(label=split.capitalize())
            for split in ordered(r.split for r in results)
        },
        tables=tuple(tables),
    )


def ks_to_retain_model(run: ScoredRun) -> list[Summary]:
    """How far the truth ratios of every model are from the retain_model's: KS distance by split and modality.

    On forget and test, 0 means that the model cannot be told from one that never saw these people. A distance and not
    a p-value, so it does not depend on the number of questions. Only generation questions are compared: the ratios of
    other tasks differ in scale.

    Returns:
        Distances in [0, 1]; none where one of the two models has no judged value.

    Raises:
        DataError: a model and the retain_model were not scored on the same samples.
    """
    return [
        Summary(model=model, summary=KS, split=split, modality=modality, value=ks_distance(ours, theirs))
        for model, split, modality, ours, theirs in run.truth_ratios()
    ]


def _baseline(model: str, cell: Cell, members: Sequence[Sample], values: Sequence[float]) -> MetricResult:
    estimate = clustered_mean(values, [sample.profile_id for sample in members], (0.0, 1.0))
    if model != "majority":  # known exactly, so an interval would claim a doubt that does not exist
        estimate = estimate._replace(low=None, high=None)
    return result_row(model, _headline(cell.task), cell, estimate)


def _headline(task: str) -> str:
    """The metric of a task with options that guessing is compared with."""
    return task_of(task).metrics[0] if task in plugins.names("tasks") else "accuracy"


def _majority_value(sample: Sample, counts: Mapping[tuple[str, str], int]) -> float:
    """Expected score of choosing the most frequent option value."""
    frequency = {letter: counts.get((sample.attribute, _plain(value)), 0) for letter, value in sample.options.items()}
    best = [letter for letter, count in frequency.items() if count == max(frequency.values())]
    return 1 / len(best) if sample.target in best else 0.0


def _plain(value: str) -> str:
    return value.strip().lower()
