"""Tables of summary numbers as plug-ins declare them: a cell's shade says how near its number is to what is good."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from mllmu.core.declared import MODALITY_LABELS, ColumnSpec, TableSpec, closeness
from mllmu.core.records import MODALITIES, Summary
from mllmu.report.inputs import ReportInput, TrustRow
from mllmu.report.numbers import Numbers
from mllmu.report.printing import DASH, finite, show, show_span
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable, shade_of

SetRows = Mapping[tuple[str, str, str], Sequence[Summary]]
"""Summaries by name, split and modality."""


def summary_tables(report: ReportInput, numbers: Numbers) -> list[ReportTable]:
    """The declared tables; columns and tables that no model has a number for are left out.

    What a column means is said where it occurs first.
    """
    rows: dict[tuple[str, str, str], list[Summary]] = defaultdict(list)
    for row in report.summaries:
        rows[row.summary, row.split, row.modality].append(row)
    by_title: dict[str, TableSpec] = {}
    for declared in sorted(report.declared.tables, key=lambda spec: spec.order):
        for spec in _by_modality(declared):
            first = by_title.get(spec.title)
            columns = {"columns": (*first.columns, *spec.columns)} if first else {}
            by_title[spec.title] = (first or spec).model_copy(update=columns)
    said: set[str] = set()
    tables = []
    for spec in by_title.values():
        if table := _table(spec, rows, numbers, report.trust):
            once = tuple(c._replace(reads="") if c.reads in said else c for c in table.columns)
            tables.append(table._replace(columns=once))
            said |= {column.reads for column in once}
    return tables


def _by_modality(spec: TableSpec) -> Iterator[TableSpec]:
    if not spec.by_modality:
        yield spec
    for modality in MODALITIES if spec.by_modality else ():
        columns = tuple(column.model_copy(update={"modality": modality}) for column in spec.columns)
        yield spec.model_copy(update={"title": f"{spec.title}: {MODALITY_LABELS[modality]}", "columns": columns})


def _table(spec: TableSpec, rows: SetRows, numbers: Numbers, trust: Sequence[TrustRow]) -> ReportTable | None:
    """One row per model that has a row in one of the columns; columns without numbers are left out."""
    columns, bar = ([SummaryColumn(c, rows, numbers) for c in part] for part in (spec.columns, spec.bar))
    columns = [column for column in columns if column.measured]
    lines = []
    for number, model in enumerate(numbers.models, start=1):
        cells = tuple(column.cell(model.name, judged=model.role == "unlearned") for column in columns)
        widths = tuple(round(100 * (part.value(model.name) or 0.0), 1) for part in bar)
        if any(column.rows[model.name] for column in columns):
            lines.append(ReportRow(model.name, cells, model.role, number, widths))
    return ReportTable(
        tuple(column.head(trust) for column in columns),
        tuple(lines),
        spec.title,
        intro=spec.intro,
        notes=tuple(note for column in columns for note in column.reasons()),
        bar=tuple(part.head for part in spec.bar),
        bar_head=spec.bar_head,
        css="summary",
        folded=spec.folded,
    ) if lines else None  # fmt: skip


class SummaryColumn:
    """A declared column and its numbers: of every model one row, or one per detail where their median is shown."""

    def __init__(self, spec: ColumnSpec, rows: SetRows, numbers: Numbers) -> None:
        self.spec = spec
        self.rows: defaultdict[str, list[Summary]] = defaultdict(list)
        for row in rows.get((spec.summary, spec.split, spec.modality), ()):
            if spec.median or row.detail == spec.detail:
                self.rows[row.model].append(row)
        target, gold = numbers.first("target"), numbers.first("retain_model")
        self.start, self.end = (self.value(row.name) if row else None for row in (target, gold))
        details = ((word, spec.model_copy(update={"detail": detail, "more": ()})) for word, detail in spec.more)
        self.more = {word: SummaryColumn(detail, rows, numbers) for word, detail in details}

    def value(self, model: str) -> float | None:
        """The number of a model as it is printed; None if it is missing or not finite."""
        values = [value for row in self.rows[model] if (value := finite(row.value)) is not None]
        return self.spec.scale * median(values) if values else None

    @property
    def measured(self) -> bool:
        """Whether any model has a number in the column."""
        return any(self.value(model) is not None for model in list(self.rows))

    def head(self, trust: Sequence[TrustRow]) -> ReportColumn:
        """The heading; below it how many observations there are, and the AUC of the metric behind the numbers."""
        spec, rows = self.spec, [row for of_model in self.rows.values() for row in of_model]
        counts = {row.num for row in rows if row.num and not spec.median}
        of_metric = [row for row in trust if (row.metric, row.modality) == (spec.metric, spec.modality)]
        areas = [row.auc for row in of_metric if row.auc is not None and spec.task in ("", row.task)]
        asked = f"n {_ends([str(min(counts)), str(max(counts))])}" if counts else ""
        trusted = f"trust {_ends([f'{min(areas):.2f}', f'{max(areas):.2f}'])}" if areas else ""
        arrow = ""
        if spec.good in ("kept", "near"):
            arrow = "↑"
        elif spec.good == "retain_model" and self.start is not None and self.end is not None:
            alike = self._text(self.start) == self._text(self.end)
            arrow = "" if alike else "↓" if self.end < self.start else "↑"
        return ReportColumn(spec.head, ", ".join(filter(None, (spec.under, asked, trusted))), arrow, spec.reads)

    def _text(self, value: float | None) -> str:
        return show(value, self.spec.show, self.spec.decimals)

    def cell(self, model: str, *, judged: bool) -> ReportCell:
        """The number of a model; ``judged``: shaded by how good it is."""
        rows, value = self.rows[model], self.value(model)
        if value is None:
            return ReportCell(DASH, title=rows[0].note if rows else "not measured")
        past = sum(row.note == "beyond" for row in rows)
        if self.spec.median:
            known = sum(finite(row.value) is not None for row in rows)
            return ReportCell(self._text(value), below=f"of {known}, {past} past", shade=shade_of(value))
        row, (good, beyond) = rows[0], self._judged(value) if judged else (None, False)
        low, high = (None if bound is None else self.spec.scale * bound for bound in (row.low, row.high))
        span = show_span(low, high, self.spec.show, self.spec.decimals)
        more = ((word, column.value(model)) for word, column in self.more.items())
        below = ", ".join(f"{word} {number:.2f}" for word, number in more if number is not None)
        without = [row.note] if row.note.startswith("no interval") else []
        title = "; ".join([f"n {row.num}"] * (row.num > 0) + without)
        return ReportCell(self._text(value), span, below, title, shade_of(good), beyond=beyond or past > 0)

    def _judged(self, value: float) -> tuple[float | None, bool]:
        """How good a number is, 0 to 1, and whether it lies past the retain_model's."""
        if self.spec.good == "near":
            return value, False
        if self.spec.good == "kept":
            return (value / self.start if self.start and self.start > 0 else None), False
        good, note = closeness(value, self.start, self.end) if self.spec.good == "retain_model" else (None, "")
        return good, note == "beyond"

    def reasons(self) -> Iterator[str]:
        """Why numbers are missing, each reason once: 'PrivLeak of ga and 3 others: reason'."""
        missing: defaultdict[str, list[str]] = defaultdict(list)
        for model, rows in self.rows.items():
            if rows and rows[0].note and self.value(model) is None and not self.spec.median:
                missing[rows[0].note].append(model)
        for note, models in missing.items():
            others = f" and {len(models) - 1} others" if len(models) > 1 else ""
            yield f"{self.spec.head} of {models[0]}{others}: {note}"


def _ends(ends: Sequence[str]) -> str:
    """A range in words, or the one value that it is."""
    return " to ".join(dict.fromkeys(ends))
