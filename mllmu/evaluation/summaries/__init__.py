"""Summaries, one file each: numbers about whole models that no single reply gives.

A metric judges one reply. A summary sees the scores and replies of all models at once, so it can pair the two questions
about one fact, rank forgotten against unknown people, or compare a model with the retain_model.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from mllmu.core import plugins
from mllmu.core.declared import ColumnSpec, TableSpec
from mllmu.core.errors import RecipeError
from mllmu.core.plugins import Plugin
from mllmu.core.records import MetricResult, Response, Sample, Score, Summary
from mllmu.evaluation.bootstrap import with_intervals
from mllmu.evaluation.scored_run import ScoredRun, mean
from mllmu.evaluation.scoring import values_by_metric

__all__ = ["ScoredRun", "Summariser", "build_all", "mean", "summarise"]


class Summariser(Plugin):
    """Base of every summary. A subclass sets ``needs``, the metrics whose scores it reads."""

    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def summarise(self, run: ScoredRun) -> list[Summary]:
        """The rows of all models; what cannot be computed is a row with value None and a note."""

    def no_interval(self, detail: str) -> str:
        """Why the numbers of a detail have no interval; empty if they have one.

        An interval comes from a bootstrap over people, see :mod:`mllmu.evaluation.bootstrap`. That is wrong for what is
        no estimate, like a p-value, and for counts of different things, which fall when a person is drawn twice.
        """
        return ""

    def tables(self, rows: Sequence[Summary]) -> Iterable[TableSpec]:
        """Tables of a report; ``rows`` of all summaries, for columns that depend on what was found.

        A report leaves out columns without numbers. Rows in no table are still in its ``summaries.csv``.
        """
        return ()

    def row(self, model: str, value: float | None, **more: object) -> Summary:
        """One row of this summary."""
        return Summary(model=model, summary=self.name, value=value, **more)

    def rows(self, model: str, values: Mapping[str, float | None], **more: object) -> list[Summary]:
        """Rows of one model that differ by their detail, in the order of ``values``."""
        return [self.row(model, value, detail=detail, **more) for detail, value in values.items()]

    def column(self, head: str, **more: object) -> ColumnSpec:
        """One column of rows of this summary."""
        return ColumnSpec(summary=self.name, head=head, **more)

    def overview(self, order: int, *columns: ColumnSpec) -> list[TableSpec]:
        """Columns in the first tables of the summaries; ``order`` from 10 to 19 says where in them."""
        return [TableSpec(title=OVERVIEW, columns=columns, order=order, by_modality=True)]


OVERVIEW = "Utility, forgetting, privacy"


def build_all(names: Iterable[str]) -> list[Summariser]:
    """The summaries of a recipe; ``all`` stands for every one there is."""
    return [plugins.build("summaries", name, {}) for name in plugins.expanded("summaries", names)]


def summarise(
    summaries: Sequence[Summariser],
    samples: Sequence[Sample],
    scores: Mapping[str, Sequence[Score]],
    responses: Mapping[str, Sequence[Response]],
    results: Sequence[MetricResult],
    *,
    seed: int = 0,
) -> list[Summary]:
    """Run summaries over the scores and replies of all models; ``seed`` draws people for the intervals.

    Raises:
        RecipeError: a metric that a summary reads was not scored.
    """
    known = {sample.id: sample for sample in samples}
    values = {model: values_by_metric(of_model, known) for model, of_model in scores.items()}
    scored = {metric for table in values.values() for metric in table}
    for summary in summaries:
        if missing := sorted(set(summary.needs) - scored):
            raise RecipeError(
                f"evaluate.summaries: {summary.name} reads the metric {missing[0]}, which was not scored. "
                "Add its task to evaluate.tasks, or leave the summary out."
            )
    run = ScoredRun(
        samples={name: sample for name, sample in known.items() if sample.part == "report"},
        values=values,
        responses={model: {r.sample_id: r for r in of_model} for model, of_model in responses.items()},
        average=lambda: results,
    )
    return with_intervals(summaries, run, seed=seed)
