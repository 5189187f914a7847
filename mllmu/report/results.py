"""All results: as CSV files, as compact text that the page turns into a table, and what is known about each metric."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mllmu.core.names import BASELINES
from mllmu.core.records import SPLITS, MetricResult, Split, Summary
from mllmu.report.inputs import ReportInput, TrustRow
from mllmu.report.numbers import MODALITY_LABELS, Numbers, show
from mllmu.report.spreadsheet import csv_of
from mllmu.report.tables import Grid

Group = tuple[str, Split, str, str]


def results_text(report: ReportInput, numbers: Numbers) -> str:
    """Every result in few bytes, for the page's script: eleven thousand rows of a table would be most of the page.

    Lines of tab-separated cells. The first holds the models. Each other one is a metric on a set, task and modality,
    the AUC of the metric (empty if unknown) and, for each model, ``value|low|high|judged|unread|people``; an empty
    cell where a model has none.
    """
    order = [*BASELINES, *(row.name for row in numbers.models)]
    known: dict[tuple[str, str, str], TrustRow] = {(row.metric, row.task, row.modality): row for row in report.trust}
    by: dict[Group, dict[str, MetricResult]] = {}
    for result in report.results:
        by.setdefault((result.metric, result.split, result.task, result.modality), {})[result.model] = result
    names = [name for name in order if any(name in of_group for of_group in by.values())]
    lines = ["\t".join(map(_plain, names))]
    for group in sorted(by, key=lambda g: (g[0], g[3], g[2], SPLITS.index(g[1]))):
        cells = [_packed(by[group][name]) if name in by[group] else "" for name in names]
        lines.append("\t".join([*group, _auc(known, group), *cells]))
    return "\n".join(lines)


def _packed(result: MetricResult) -> str:
    bounds = [show(result.metric, bound) for bound in (result.value, result.ci_low, result.ci_high)]
    return "|".join([*bounds, str(result.num), str(result.num_unparsed), str(result.num_profiles)])


def _auc(known: Mapping[tuple[str, str, str], TrustRow], group: Group) -> str:
    """How well the metric tells models that know from models that do not: of questions on forgotten people alone."""
    metric, split, task, modality = group
    row = known.get((metric, task, modality))
    return "" if row is None or row.auc is None or split not in ("forget", "test") else f"{row.auc:.2f}"


def _plain(name: str) -> str:
    return re.sub(r"[\t\n|]", " ", name)


def results_csv(results: Sequence[MetricResult]) -> str:
    """Every result as it was computed, shares from 0 to 1; an unknown value is an empty cell."""
    return csv_of(MetricResult.model_fields, (result.model_dump().values() for result in results))


def summaries_csv(summaries: Sequence[Summary]) -> str:
    """Every number about a whole model."""
    return csv_of(Summary.model_fields, (summary.model_dump().values() for summary in summaries))


def trust_table(report: ReportInput) -> Grid | None:
    """What is known about every metric, the most trustworthy first; None if nothing was measured."""
    if not report.trust:
        return None
    head = ("metric", "task", "asked with", "AUC", "95 % interval", "rounded weights", "taught again", "trust")
    return Grid(head, tuple(_trust_cells(row) for row in report.trust))


def _trust_cells(row: TrustRow) -> tuple[str, ...]:
    def two(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f}"

    interval = "–" if row.auc_low is None else f"{two(row.auc_low)} to {two(row.auc_high)}"
    figures = (two(row.quantisation), two(row.relearning), two(row.trust))
    return (row.metric, row.task, MODALITY_LABELS[row.modality], two(row.auc), interval, *figures)
