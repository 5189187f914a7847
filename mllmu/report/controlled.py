"""The report's section on controls: how much of a score is knowledge of the person who is asked about."""

from collections.abc import Iterator, Sequence

from mllmu.core.controlled import CONTROL_LABELS, CONTROLS, Control, ControlResults, ControlRow
from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.records import MODALITIES, Modality, Split
from mllmu.report.inputs import ModelRow
from mllmu.report.printing import DASH, listing, show, show_span
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable

_OTHER_CHOICE = "share of the questions to which another value is chosen in the second order"
_PEOPLE = {"forget": "the people to forget", "retain": "the people to retain"}


def controls_asked(results: ControlResults) -> str:
    """The controls that were asked, in words; empty if none was."""
    asked = {row.control for row in results.rows}
    return listing(CONTROL_LABELS[name] for name in CONTROLS if name in asked) if asked else ""


def control_tables(results: ControlResults, models: Sequence[ModelRow]) -> Iterator[ReportTable]:
    """A table per set with both modalities side by side, then one of the choices in two orders of the options."""
    for split, people in _PEOPLE.items():
        if any(row.split == split for row in results.rows):
            yield _table(split, f"Questions on {people}", results, models)
    if results.orders:
        yield _orders(results, models)


def _table(split: Split, title: str, results: ControlResults, models: Sequence[ModelRow]) -> ReportTable:
    by_place = {(row.model, row.modality, row.control): row for row in results.rows if row.split == split}
    columns: list[ReportColumn] = []
    shown: list[tuple[Modality, list[Control]]] = []
    for modality in MODALITIES:
        names = [c for c in CONTROLS if any((m.name, modality, c) in by_place for m in models)]
        if not names:
            continue
        group = MODALITY_LABELS[modality]
        columns.append(ReportColumn("as asked", group=group))
        columns += [ReportColumn(CONTROL_LABELS[name], group=group) for name in names]
        columns.append(ReportColumn("knowledge", "as asked - best control", group=group))
        shown.append((modality, names))
    rows = []
    for number, model in enumerate(models, start=1):
        cells: list[ReportCell] = []
        for modality, names in shown:
            of_model = [by_place.get((model.name, modality, name)) for name in names]
            cells += _cells(of_model, results.knowledge(model.name, split, modality))
        rows.append(ReportRow(model.name, tuple(cells), model.role, number))
    return ReportTable(tuple(columns), tuple(rows), title, css="summary")


def _cells(of_model: Sequence[ControlRow | None], best: ControlRow | None) -> Iterator[ReportCell]:
    yield ReportCell(show(next((row.asked for row in of_model if row), None)))
    for row in of_model:
        title = f"{row.num} questions, {row.num_units} {row.unit}" if row else "not asked"
        yield ReportCell(show(row.score) if row else DASH, title=title)
    if best is None:
        yield ReportCell(DASH, title="no control could be asked")
    else:
        yield ReportCell(
            show(best.difference, "signed"), show_span(best.low, best.high, "signed"), CONTROL_LABELS[best.control]
        )


def _orders(results: ControlResults, models: Sequence[ModelRow]) -> ReportTable:
    by_place = {(row.model, row.split, row.modality): row for row in results.orders}
    places = list(dict.fromkeys((row.split, row.modality) for row in results.orders))
    columns = []
    for split, modality in places:
        group = f"{split}, {MODALITY_LABELS[modality]}"
        columns.append(ReportColumn("other choice", group=group, reads=_OTHER_CHOICE))
        columns.append(ReportColumn("right", "first / second order", group=group))
    rows = []
    for number, model in enumerate(models, start=1):
        cells = []
        for place in places:
            row = by_place.get((model.name, *place))
            if row is None:
                cells += [ReportCell(DASH), ReportCell(DASH)]
                continue
            unread = f", {row.num_unread} not read" if row.num_unread else ""
            cells.append(ReportCell(show(row.unstable), title=f"{row.num} questions{unread}"))
            cells.append(ReportCell(f"{show(row.asked)} / {show(row.right)}"))
        rows.append(ReportRow(model.name, tuple(cells), model.role, number))
    return ReportTable(tuple(columns), tuple(rows), "Multiple choice in two orders of the options", css="summary")
