"""The report's section on requests over time: an overview, the matrix of requests and times, and curves."""

from collections.abc import Sequence

from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.records import MODALITIES, UTILITY, Modality
from mllmu.core.requested import SO_FAR, RequestCost, RequestResults, RequestScore
from mllmu.report.figures import PALETTE, SERIES, Plot, finish, new_figure, style
from mllmu.report.inputs import ModelRow
from mllmu.report.printing import duration, show, show_span
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable, shade_of

MOST = 12
"""So many requests are shown in a matrix: the first, the last, and some between; all are in ``requests.json``."""
YARDSTICKS = {"target": "ink", "retain_model": "muted"}
Places = dict[tuple[str, str, str, int, int], RequestScore]


def request_tables(results: RequestResults, models: Sequence[ModelRow]) -> list[ReportTable]:
    """One overview per modality, then one matrix per modality and unlearned model."""
    places, found = results.by_place(), []
    measured = [modality for modality in MODALITIES if any(score.modality == modality for score in results.scores)]
    for modality in measured:
        found.append(_overview(results, places, modality, models))
    for modality in measured:
        found += [_matrix(results, places, modality, m) for m in models if (m.name, modality, 1) in _begun(results)]
    return found


def _begun(results: RequestResults) -> set[tuple[str, str, int]]:
    return {(score.model, score.modality, score.after) for score in results.scores}


def _overview(results: RequestResults, places: Places, modality: Modality, models: Sequence[ModelRow]) -> ReportTable:
    count, rows = len(results.labels), []
    for number, model in enumerate(models, start=1):
        last = count if (model.name, modality, count) in _begun(results) else 0
        so_far = places.get((model.name, modality, "forget", SO_FAR, last))
        if so_far is None:
            continue
        kept = [places.get((model.name, modality, split, SO_FAR, last)) for split in UTILITY]
        costs = [cost for cost in results.costs if cost.model == model.name]
        cells = (
            _score(so_far),
            _share(so_far),
            _worst(results, model.name, modality),
            *map(_kept, kept),
            *_cost(costs),
        )
        rows.append(ReportRow(model.name, cells, model.role, number))
    columns = (
        ReportColumn("all requests", "score", "↓", "mean score on the facts of all requests after the last one"),
        ReportColumn("forgotten", "share", "↑", "(target - score) / (target - retain model) of the same"),
        ReportColumn("largest rebound", "", "↓", "most that a request gained back after a later one, and which"),
        *(ReportColumn(split, "after the last", "↑", f"score on {split}; below it the change to the target")
          for split in UTILITY),
        ReportColumn("seconds", "per request", "↓", "mean time of one request, and all together"),
        ReportColumn("kept", "folders, MiB", "↓", "folders with weights or adapters beside the target, after the last"),
    )  # fmt: skip
    title = f"After {count} requests: {MODALITY_LABELS[modality]}"
    return ReportTable(columns, tuple(rows), title, css="summary")


def _score(score: RequestScore) -> ReportCell:
    return ReportCell(show(score.value), show_span(score.low, score.high), title=f"{score.num} questions")


def _share(score: RequestScore) -> ReportCell:
    span = show_span(score.forgotten_low, score.forgotten_high, "signed")
    return ReportCell(show(score.forgotten), span, shade=shade_of(score.forgotten))


def _kept(score: RequestScore | None) -> ReportCell:
    if score is None:
        return ReportCell(show(None))
    span = show_span(score.change_low, score.change_high, "signed")
    below = f"{show(score.change, 'signed')}{f' ({span})' if span else ''}" if score.change is not None else ""
    return ReportCell(show(score.value), show_span(score.low, score.high), below, f"{score.num} questions")


def _worst(results: RequestResults, model: str, modality: Modality) -> ReportCell:
    """The largest change of a request after a later one."""
    own = [s for s in results.scores if (s.model, s.modality, s.split) == (model, modality, "forget") and s.request]
    later = [score for score in own if score.change is not None]
    if not later:
        return ReportCell(show(None))
    most = max(later, key=lambda score: score.change or 0.0)
    span = show_span(most.change_low, most.change_high, "signed")
    return ReportCell(show(most.change, "signed"), span, f"request {most.request} after {most.after}")


def _cost(costs: Sequence[RequestCost]) -> tuple[ReportCell, ReportCell]:
    if not costs:
        return ReportCell(show(None)), ReportCell(show(None))
    total, last = sum(cost.seconds for cost in costs), costs[-1]
    each = ReportCell(duration(total / len(costs)), below=f"{duration(total)} in all")
    return each, ReportCell(str(last.adapters), below=f"{last.mib:.1f} MiB")


def _matrix(results: RequestResults, places: Places, modality: Modality, model: ModelRow) -> ReportTable:
    """Scores of every request after every request; the target's beside them."""
    shown = some(len(results.labels))
    rows = []
    for number in shown:
        cells = [_plain(places.get((name, modality, "forget", number, 0))) for name in YARDSTICKS]
        cells += [_cell(places.get((model.name, modality, "forget", number, after)), number) for after in shown]
        rows.append(ReportRow(f"{number}: {results.labels[number - 1]}", tuple(cells)))
    for split in UTILITY:
        cells = [_plain(places.get((name, modality, split, SO_FAR, 0))) for name in YARDSTICKS]
        cells += [_cell(places.get((model.name, modality, split, SO_FAR, after)), 0) for after in shown]
        rows.append(ReportRow(split, tuple(cells)))
    columns = [ReportColumn(name, "score") for name in ("target", "retain model")]
    columns += [ReportColumn(f"after {after}") for after in shown]
    title = f"{model.name}, request by time: {MODALITY_LABELS[modality]}"
    return ReportTable(tuple(columns), tuple(rows), title, first="request", css="summary", folded=True)


def some(count: int) -> list[int]:
    """Numbers of requests that a matrix shows.

    >>> some(3), some(100)
    ([1, 2, 3], [1, 10, 19, 28, 37, 46, 55, 64, 73, 82, 91, 100])
    """
    if count <= MOST:
        return list(range(1, count + 1))
    return sorted({1 + round(step * (count - 1) / (MOST - 1)) for step in range(MOST)})


def _plain(score: RequestScore | None) -> ReportCell:
    return ReportCell(show(None)) if score is None else ReportCell(show(score.value), show_span(score.low, score.high))


def _cell(score: RequestScore | None, request: int) -> ReportCell:
    """The score of a request at a time: before its turn without shade, later with how it has changed since."""
    if score is None:
        return ReportCell(show(None))
    below = show(score.change, "signed") if score.change is not None else ""
    met = request and request <= score.after
    title = f"{score.num} questions" if met or not request else f"{score.num} questions; not requested yet"
    shade = shade_of(score.forgotten) if met else None
    return ReportCell(show(score.value), show_span(score.low, score.high), below, title, shade)


def request_plots(results: RequestResults | None, models: Sequence[ModelRow]) -> list[Plot]:
    """Per modality two panels over the requests: the score on the facts requested so far, and on what is kept."""
    if results is None:
        return []
    places = results.by_place()
    measured = [modality for modality in MODALITIES if any(score.modality == modality for score in results.scores)]
    with style("requests"):
        figure = new_figure(9.6, 0.9 + 2.7 * len(measured))
        panels = figure.subplots(len(measured), 2, squeeze=False, sharex=True, sharey=True)
        for line, modality in zip(panels, measured, strict=True):
            for axes, split, title in zip(line, ("forget", "retain"), ("requested so far", "retain"), strict=True):
                _draw(axes, places, modality, split, models, len(results.labels))
                axes.set_title(f"{MODALITY_LABELS[modality]}: {title}")
        for axes in panels[-1]:
            axes.set_xlabel("after request")
            axes.set_xticks(some(len(results.labels)))
        for axes in panels[:, 0]:
            axes.set_ylabel("score")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        return [
            finish(figure, "requests", "Score on the facts requested so far, and on retained people, over requests")
        ]


def _draw(axes: object, places: Places, modality: Modality, split: str, models: Sequence[ModelRow], count: int) -> None:
    others = [model.name for model in models if model.name not in YARDSTICKS]
    for model in models:
        points = [
            (after, 100 * score.value)
            for after in range(count + 1)
            if (score := places.get((model.name, modality, split, SO_FAR, after)))
        ]
        if model.name in YARDSTICKS and points:
            points = [(1, points[0][1]), (count, points[0][1])]
        if points:
            place = others.index(model.name) if model.name in others else 0
            colour = YARDSTICKS.get(model.name) or SERIES[place % len(SERIES)]
            dash = "--" if model.name in YARDSTICKS or place >= len(SERIES) else "-"
            axes.plot(*zip(*points, strict=True), dash, marker="" if model.name in YARDSTICKS else "o",  # type: ignore[attr-defined]
                      markersize=3, color=PALETTE[colour], label=model.name)  # fmt: skip
