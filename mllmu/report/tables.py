"""The tables of a report: trade-off, sets of people, trust in metrics, cost, provenance, and those for a terminal."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from csv import reader
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from mllmu.core.declared import MODALITY_LABELS, Format
from mllmu.core.names import BASELINES
from mllmu.core.records import FORGOTTEN, TO_FORGET, UTILITY, Cell, Modality, Split, TaskName
from mllmu.report.inputs import ModelRow, ReportInput, TrustRow
from mllmu.report.numbers import ALL_TASKS, Interval, Numbers, TradeoffRow, tradeoff_rows
from mllmu.report.printing import DASH, duration, listing, show, show_span, style_of
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable, shade_of

FEW_PEOPLE = 5
"""With fewer people an interval is marked: it rests on a guess about how people differ."""
UNPARSED_ALARM = 0.2
"""From this share of unparsed replies on, a cell is marked: its score is far from certain."""

REFERENCE_KEY = "5"
"""The forget ratio of the published rows, in percent; beside any other they would mislead."""
_REFERENCE = Path(__file__).parent / "templates" / "reference.csv"
"""LLaVA-1.5-7B, 5 % of people forgotten: the table of arXiv 2410.22108 as re-printed by later work."""


def plain_table(heads: Sequence[str], *rows: Sequence[str], words: int = 0, **more: Any) -> ReportTable:
    """A table of texts: the first heading and the first text of a row name the rows; ``words`` columns hold words."""
    first, *others = heads or ("",)
    columns = (ReportColumn(head, words=index < words) for index, head in enumerate(others))
    texts = (ReportRow(name, tuple(map(ReportCell, cells))) for name, *cells in rows)
    return ReportTable(tuple(columns), tuple(texts), first=first, **more)


def model_rows(numbers: Numbers, cells: Mapping[str, Sequence[ReportCell]]) -> tuple[ReportRow, ...]:
    """Rows of the models that have cells, in report order."""
    rows = enumerate(numbers.models, start=1)
    return tuple(ReportRow(row.name, tuple(cells[row.name]), row.role, n) for n, row in rows if row.name in cells)


# --- forgetting against utility


def overview(numbers: Numbers, rows: Sequence[TradeoffRow]) -> ReportTable:
    """The mean over all tasks, one line per model."""
    noise = numbers.metric(numbers.noise).label.lower()
    columns = [ReportColumn("distance")]
    for modality in numbers.modalities:
        group = MODALITY_LABELS[modality]
        columns += [ReportColumn(head, group=group) for head in ("forget", "gap", "utility", noise)]
    cells = {row.name: [ReportCell(show(numbers.distance(row)))] for row in numbers.models}
    for row in rows:
        cells[row.model.name] += _tradeoff_cells(row) if row.task == ALL_TASKS else []
    return ReportTable(tuple(columns), model_rows(numbers, cells), css="overview")


def _tradeoff_cells(row: TradeoffRow) -> list[ReportCell]:
    chips = [("front", "front")] * row.on_front + [(fault.partition(":")[0], "collapsed") for fault in row.faults]
    forget, utility = (
        ReportCell(_with_best(score), show_span(score.low, score.high) if score else "")
        for score in (row.forget, row.utility)
    )
    return [forget._replace(chips=tuple(chips)), ReportCell(show(row.gap)), utility, ReportCell(show(row.noise_retain))]


def _with_best(score: Interval | None, style: Format = "percent", decimals: int = 3) -> str:
    """A score, and in brackets what it were if replies that could not be read counted for the model."""
    text = show(score.value if score else None, style, decimals)
    return text if score is None or score.best is None else f"{text} ({show(score.best, style, decimals)})"


# --- scores by set


def set_tables(numbers: Numbers, trust: Sequence[TrustRow] = ()) -> list[ReportTable]:
    """One table per task and modality of the headline metric, then those of metrics with a table of their own."""
    areas = {(row.metric, row.task, row.modality): row.auc for row in trust if row.auc is not None}
    tables = []
    for task, declared in numbers.declared.tasks.items():
        info = numbers.metric(declared.metric)
        bounds = info.unit if None in info.range else "{:g} to {:g}".format(*info.range)
        for (of_task, modality), cells in numbers.tables(declared.metric).items():
            auc = areas.get((declared.metric, task, modality))
            aside = f"{info.label}, {'%' if info.percent else bounds}{'' if auc is None else f', trust {auc:.2f}'}"
            tables += [_set_table(numbers, declared.metric, cells, declared.label, aside)] if of_task == task else []
    for name, info in numbers.declared.metrics.items():
        apart = numbers.tables(name).values() if info.table else ()
        tables += [_set_table(numbers, name, cells, info.label, info.about) for cells in apart]
    return tables


def _set_table(numbers: Numbers, metric: str, cells: Sequence[Cell], label: str, aside: str) -> ReportTable:
    """Models down, sets across."""
    baselines = [name for name in BASELINES if any(numbers.result(name, metric, cell) for cell in cells)]
    models = [(0, ModelRow(name=name, role="baseline")) for name in baselines] + list(enumerate(numbers.models, 1))
    rows = []
    for number, row in models:
        texts = (_set_cell(numbers, row, metric, cell) for cell in cells)
        rows.append(ReportRow(row.name, tuple(texts), row.role, number))
    columns = (_set_column(numbers, metric, cell) for cell in cells)
    title, note = f"{label}, {MODALITY_LABELS[cells[0].modality]}", numbers.notes.get(cells[0].task, "")
    return ReportTable(tuple(columns), tuple(rows), title, aside, intro=note)


def _set_column(numbers: Numbers, metric: str, cell: Cell) -> ReportColumn:
    """All models were asked the same, see :func:`mllmu.report.inputs.check`."""
    results = [result for row in numbers.models if (result := numbers.result(row.name, metric, cell))]
    asked = max(result.num + result.num_unparsed for result in results)
    people = max(result.num_profiles for result in results)  # of the judged replies
    return ReportColumn(numbers.split_label(cell.split), f"n {asked}, {people} people", alarm=people < FEW_PEOPLE)


def _set_cell(numbers: Numbers, row: ModelRow, metric: str, cell: Cell) -> ReportCell:
    result, score = numbers.result(row.name, metric, cell), numbers.interval(row.name, metric, cell)
    if result is None:
        return ReportCell(DASH, title="not asked")
    asked, style = result.num + result.num_unparsed, style_of(numbers.metric(metric))
    alarm = asked > 0 and result.num_unparsed / asked >= UNPARSED_ALARM
    shaded = score is not None and row.role == "unlearned" and not alarm
    return ReportCell(
        _with_best(score, *style),
        small=show_span(score.low, score.high, *style) if score else "",
        below=f"{result.num_unparsed} of {asked} unparsed" if result.num_unparsed else "",
        title=f"{result.num} replies judged, {result.num_unparsed} not, {result.num_profiles} people",
        shade=shade_of(goodness(numbers, score, metric, cell)) if score and shaded else None,
        alarm=alarm,
    )


def goodness(numbers: Numbers, score: Interval, metric: str, cell: Cell) -> float | None:
    """How good a score is, 0 to 1; 1 is the retain_model on forget and test, and the target where knowledge is wanted.

    forget, test:  1 - |score - retain_model| / |target - retain_model|
    elsewhere:     (score - worst) / (target - worst), worst: chance where it is defined, else the end of the range
    Both clipped to 0..1. None if a yardstick is missing, or if the two yardsticks are no further apart than their
    half intervals together: then the shade would show noise. None for holdout people too: no model knows them.
    """
    target, gold = numbers.first("target"), numbers.first("retain_model")
    start = numbers.interval(target.name, metric, cell) if target else None
    if cell.split in TO_FORGET:
        best, worst = numbers.interval(gold.name, metric, cell) if gold else None, start
    else:
        info = numbers.metric(metric)
        end = info.range[0 if info.better == "higher" else 1]
        lucky = numbers.interval("chance", metric, cell)
        best, worst = start, lucky or (None if end is None else Interval(end))
    if best is None or worst is None or cell.split == "holdout":
        return None
    span = worst.value - best.value
    if abs(span) <= best.half + worst.half:
        return None
    gap = abs((score.value - best.value) / span) if cell.split in TO_FORGET else (score.value - best.value) / span
    return min(1.0, max(0.0, 1 - gap))


# --- metrics


def trust_table(trust: Sequence[TrustRow]) -> ReportTable:
    """How far every metric can be trusted, the most trustworthy first."""
    heads = ("metric", "task", "modality", "AUC", "95 % interval", "quantisation", "relearning", "trust")

    def texts(row: TrustRow) -> tuple[str, ...]:
        auc, *others = (show(v, "decimal", 2) for v in (row.auc, row.quantisation, row.relearning, row.trust))
        span = show_span(row.auc_low, row.auc_high, "decimal", 2) or DASH
        return (row.metric, row.task, MODALITY_LABELS[row.modality], auc, span, *others)

    return plain_table(heads, *map(texts, trust), words=2)


def results_text(report: ReportInput, numbers: Numbers) -> str:
    """Every result in few bytes, for the page's script: eleven thousand rows of a table would be most of the page.

    Lines of tab-separated cells. The first holds the models. Each other one is a metric on a set, task and modality,
    the AUC of the metric (empty if unknown) and, for each model, ``value|interval|judged|unread|people``; an empty
    cell where a model has none. The AUC is that of questions on forgotten people, so it stands beside them alone.
    """
    areas = {(row.metric, row.task, row.modality): row.auc for row in report.trust}
    groups: dict[tuple[str, Modality, TaskName, int, Split], dict[str, str]] = {}
    for r in report.results:
        style = style_of(numbers.metric(r.metric))
        span = DASH if r.ci_low is None else f"{show(r.ci_low, *style)} to {show(r.ci_high, *style)}"
        group = (r.metric, r.modality, r.task, numbers.splits.index(r.split), r.split)
        packed = f"{show(r.value, *style)}|{span}|{r.num}|{r.num_unparsed}|{r.num_profiles}"
        groups.setdefault(group, {})[r.model] = packed
    order = [*BASELINES, *(row.name for row in numbers.models)]
    names = [name for name in order if any(name in of_group for of_group in groups.values())]
    lines = ["\t".join(re.sub(r"[\t\n|]", " ", name) for name in names)]
    for metric, modality, task, index, split in sorted(groups):
        auc = areas.get((metric, task, modality)) if split in FORGOTTEN else None
        cells = [groups[metric, modality, task, index, split].get(name, "") for name in names]
        lines.append(
            "\t".join([metric, split, task, MODALITY_LABELS[modality], "" if auc is None else f"{auc:.2f}", *cells])
        )
    return "\n".join(lines)


# --- cost and provenance


def cost_table(numbers: Numbers) -> ReportTable:
    """What every model cost and how it was made; settings as compact JSON."""
    gold = numbers.first("retain_model")
    retraining = gold.seconds if gold else None
    heads = ("method", "unlearned with", "time", *(["of retraining"] * bool(gold)), "peak MiB", "tokens/s", "trainable",
             "settings")  # fmt: skip
    columns = (ReportColumn(head, words=head in ("method", "unlearned with", "settings")) for head in heads)

    def cells(row: ModelRow) -> list[ReportCell]:
        share = f"{100 * row.seconds / retraining:.0f} %" if row.seconds is not None and retraining else DASH
        counts = (DASH if n is None else f"{n:,.0f}" for n in (row.peak_mib, row.tokens_per_s, row.trainable))
        modality = MODALITY_LABELS[row.modality] if row.modality else DASH
        texts = (row.method or DASH, modality, duration(row.seconds), *([share] * bool(gold)), *counts)
        settings = ", ".join(f"{k}={json.dumps(v, default=str, ensure_ascii=False)}" for k, v in row.settings.items())
        words = "; ".join(row.warnings) if row.warnings or settings else DASH
        chips = (("warning", "front"),) if row.warnings else ()
        return [*map(ReportCell, texts), ReportCell(words, chips=chips, fold=settings)]

    return ReportTable(tuple(columns), model_rows(numbers, {row.name: cells(row) for row in numbers.models}))


def reference_table() -> ReportTable:
    """Published numbers."""
    return plain_table(*reader(_REFERENCE.read_text(encoding="utf-8").splitlines()))


def provenance_table(provenance: Mapping[str, Any]) -> ReportTable:
    """Nested provenance as (dotted key, text); recipe and stage times are shown elsewhere."""
    rest = {key: value for key, value in provenance.items() if key not in ("recipe", "seconds")}
    return plain_table((), *_flat("", rest), css="facts")


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [row for key, inner in value.items() for row in _flat(f"{prefix}.{key}" if prefix else str(key), inner)]
    if isinstance(value, list | tuple):
        return [(prefix, ", ".join(map(str, value)) or DASH)]
    return [(prefix, DASH if value is None else str(value))]


def stage_table(seconds: Mapping[str, float]) -> ReportTable:
    """Seconds per stage, and their sum if there are several."""
    total = {"total": sum(seconds.values())} if len(seconds) > 1 else {}
    rows = ((name, duration(spent)) for name, spent in {**seconds, **total}.items())
    return plain_table((), *rows, css="facts", title="Time by stage")


# --- for a terminal


def terminal_tables(report: ReportInput) -> list[Table]:
    """The result in a few lines: mean headline scores by set, then the metrics that have a table of their own.

    Raises:
        DataError: results that cannot be compared.
    """
    rows, numbers = tradeoff_rows(report), Numbers(report)
    splits: tuple[Split, ...] = (*FORGOTTEN, *UTILITY)
    heads = ("model", *splits, numbers.metric(numbers.noise).label.lower())
    texts: list[Callable[[str, Modality], str]]
    texts = [*(partial(_brief_score, numbers, split) for split in splits), partial(_brief_noise, numbers)]
    scores = plain_table(heads, *_brief_rows(numbers, numbers.modalities, texts), title=_title(report))
    front = {row.model.name for row in rows if row.on_front and row.task == ALL_TASKS}
    asked = " / ".join(MODALITY_LABELS[m] for m in numbers.modalities) or "no results"
    caption = f"mean headline score in % by modality ({asked}); * Pareto front"
    if apart := numbers.not_in_mean:
        caption += f"; without {listing([numbers.tasks[task].label for task in apart])}"
    if any("(" in cell.text for row in scores.rows for cell in row.cells):
        caption += "; replies that could not be read count against the model, (in brackets) for it"
    marked = (r._replace(name=f"{r.name} *", strong=True) if r.name in front else r for r in scores.rows)
    tables = [scores._replace(intro=caption, rows=tuple(marked))]
    for name, info in numbers.declared.metrics.items():
        cells = [cell for of_table in numbers.tables(name).values() for cell in of_table] if info.table else []
        for task in dict.fromkeys(cell.task for cell in cells):
            of_task = {cell.split: cell for cell in cells if cell.task == task}
            modalities = list(dict.fromkeys(cell.modality for cell in cells))
            texts = [partial(_brief_result, numbers, name, cell) for cell in of_task.values()]
            lines = _brief_rows(numbers, modalities, texts)
            tables.append(plain_table(("model", *of_task), *lines, title=info.label, intro=info.about))
    return [table.terminal() for table in tables]


def _title(report: ReportInput) -> str:
    return f"{report.title}: {report.facts}" if report.facts else report.title


def _brief_rows(
    numbers: Numbers, modalities: Sequence[Modality], texts: Sequence[Callable[[str, Modality], str]]
) -> Iterator[tuple[str, ...]]:
    """One row per model; in every cell the modalities side by side."""
    for row in numbers.models:
        yield row.name, *(" / ".join(text(row.name, modality) for modality in modalities) for text in texts)


def _brief_score(numbers: Numbers, split: Split, model: str, modality: Modality) -> str:
    return _with_best(numbers.score(model, modality, [split]))


def _brief_noise(numbers: Numbers, model: str, modality: Modality) -> str:
    share = numbers.share(model, numbers.noise, numbers.cells(modality, ("forget", "retain")))
    return DASH if share is None else f"{100 * share:.0f}"


def _brief_result(numbers: Numbers, metric: str, cell: Cell, model: str, modality: Modality) -> str:
    result = numbers.result(model, metric, cell._replace(modality=modality))
    return show(result.value if result else None, *style_of(numbers.metric(metric)))
