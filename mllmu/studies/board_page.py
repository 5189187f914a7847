"""The board as a page, a CSV file, a Markdown file, and one result per setup that anyone can recompute it from."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from mllmu.config.recipe import Recipe
from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.errors import MllmuError
from mllmu.core.names import RETAIN_MODEL, TARGET
from mllmu.core.records import MODALITIES, Modality
from mllmu.core.runfolder import RunFolder, write_atomic
from mllmu.report.page import PageSection, write_small_page
from mllmu.report.printing import csv_of
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable
from mllmu.studies.board import BoardSetup, board_setups, save_result
from mllmu.studies.board_plots import board_plot
from mllmu.studies.pool import PairedRow, PooledRow, PooledValue
from mllmu.studies.pool_text import points, pool_text, rank_text
from mllmu.studies.setups import EvaluatedRun

RunPages = Callable[[EvaluatedRun], Mapping[str, str]]
"""Label -> address of pages about a run."""
VALUES = ("forget", "surplus", "utility", "cost", "distance")
BOUND = 0.05
"""Differences below 5 points count as none where nobody named a bound."""
_HEADS = (
    ReportColumn("forget", reads="score on the forgotten people, points of 100"),
    ReportColumn("against retain_model", reads="forget minus the retain_model's: 0 is the aim, above 0 is still known"),
    ReportColumn("utility", arrow="↑", reads="mean score on retained people and celebrities"),
    ReportColumn("lost utility", arrow="↓", reads="utility of the target minus this"),
    ReportColumn("distance", arrow="↓", reads="|against retain_model| + lost utility, by which models are ranked"),
    ReportColumn("rank", arrow="↓", reads="within its setup; in brackets the ranks of 95 % of the draws"),
    ReportColumn("on the front", arrow="↑", reads="share of the draws in which no model beats it in both"),
    ReportColumn("runs", reads="pooled here: other seeds, other people"),
)


def write_board(
    folder: Path, title: str, setups: Sequence[BoardSetup], *, bound: float, pages: RunPages | None = None
) -> Path:
    """Write the board of some setups; the same results give the same bytes.

    Args:
        folder: gets ``index.html``, ``board.csv``, ``board.md`` and ``results/``.
        title: of the page.
        setups: at least one.
        bound: 0 to 1; differences below count as none.
        pages: the pages of a run that are linked, label -> address; by default its report.

    Returns:
        The path of the page.
    """
    names = [f"setup_{number}" if setup.label else "scores" for number, setup in enumerate(setups, start=1)]
    for name, setup in zip(names, setups, strict=True):
        save_result(folder / "results", name, setup)
    head = ("setup", "model", "modality", *(f"{v}{end}" for v in VALUES for end in ("", "_low", "_high")),
            "rank", "rank_low", "rank_high", "on_front", "runs")  # fmt: skip
    write_atomic(folder / "board.csv", csv_of(head, (_record(s, row) for s in setups for row in s.rows)))
    texts = [
        "\n\n".join(
            filter(None, [f"## {s.label}" if s.label else "", pool_text(s.rows, s.pairs, bound, s.ratio), s.note])
        )
        for s in setups
    ]
    write_atomic(folder / "board.md", "\n\n".join([f"# {title}", *texts]) + "\n")
    return write_small_page(
        folder / "index.html", title, _lead(setups), list(_sections(setups, bound, pages or partial(_report, folder)))
    )


def index_ratios(recipe: Recipe, root: Path) -> None:
    """Write the first page of a report with several forget ratios; with one, the report itself is that page."""
    if len(recipe.data.splits.forget_ratios) > 1:
        write_index(root / RunFolder.REPORT, recipe.report.title or recipe.name, [root])


def write_index(folder: Path, title: str, runs: Sequence[Path]) -> Path:
    """The first page of several evaluations: a board of them, or, where nothing can be compared, why and all reports.

    Args:
        folder: gets the page.
        title: of the page.
        runs: run folders, each with one or several forget ratios.
    """
    evaluated = [run for run in runs if RunFolder(run).evaluated_keys()]
    try:
        return write_board(folder, title, board_setups(evaluated), bound=BOUND)
    except MllmuError as error:  # the runs themselves are made: their reports can be opened
        pages = {f"{run.name}: {page.parent.name}": page for run in runs for page in run.glob("report/**/index.html")}
        links = {label: os.path.relpath(page, folder) for label, page in pages.items() if page.parent != folder}
        return write_small_page(
            folder / "index.html", title, f"No board: {error}", [PageSection("Reports", links=links)]
        )


def _lead(setups: Sequence[BoardSetup]) -> str:
    runs = sum(row.runs for setup in setups for row in setup.rows[:1])
    methods = {row.model for setup in setups for row in setup.rows if row.rank}
    what = f"{len(methods)} unlearned model{'s' * (len(methods) > 1)}, {runs} run{'s' * (runs > 1)}"
    apart = f" in {len(setups)} setups, which differ in their settings" if len(setups) > 1 else ""
    return (
        f"{what}{apart}. Runs that differ in the seed alone are pooled; the 95 % intervals draw runs, and people "
        "within every run, anew. One run says nothing about other people; ranks whose brackets overlap are not settled."
    )


def _sections(setups: Sequence[BoardSetup], bound: float, pages: RunPages) -> Iterator[PageSection]:
    for modality in MODALITIES:
        rows = [(setup, row) for setup in setups for row in setup.rows if row.modality == modality]
        if rows:
            title = MODALITY_LABELS[modality]
            yield PageSection(
                f"Where every model stands: {title}",
                " ".join(
                    f"{setup.label}: {setup.note}" if setup.label else setup.note for setup in setups if setup.note
                ),
                plot=board_plot([(setup.label, row) for setup, row in rows], f"board-{modality}"),
                table=_standings(rows, labelled=len(setups) > 1),
            )
            yield from _pairs(setups, modality, bound)
    links = {
        f"{setup.label}: {label}" if setup.label else label: address
        for setup in setups
        for run in setup.runs
        for label, address in pages(run).items()
    }
    if links:
        yield PageSection("Pages of the runs", links=links)
    files = {"board.csv": "board.csv", "board.md": "board.md", "results/": "results"}
    yield PageSection("Files", "The numbers as CSV and Markdown; the raw scores, person by person.", links=files)


def report_of(run: EvaluatedRun) -> Path | None:
    """The page of a run's report; None if none has been written."""
    root = run.folder / RunFolder.REPORT
    pages = (root / f"forget_{run.key}" / "index.html", root / "index.html")
    return next((page for page in pages if page.is_file()), None)


def _report(folder: Path, run: EvaluatedRun) -> dict[str, str]:
    page = report_of(run)
    return {run.name: os.path.relpath(page, folder)} if page else {}


def _standings(rows: Sequence[tuple[BoardSetup, PooledRow]], *, labelled: bool) -> ReportTable:
    """All models of one modality: the target and the retain_model of every setup first, then by distance."""
    order = sorted(rows, key=lambda each: (each[1].rank is not None, each[1].distance.value if each[1].rank else 0))
    columns = (ReportColumn("setup", words=True), *_HEADS) if labelled else _HEADS
    return ReportTable(columns, tuple(_standing(setup, row, labelled=labelled) for setup, row in order))


def _standing(setup: BoardSetup, row: PooledRow, *, labelled: bool) -> ReportRow:
    front = "" if row.front is None else f"{100 * row.front:.0f} %"
    values = [_cell(getattr(row, name)) for name in VALUES]
    texts = (rank_text(row), front, str(row.runs))
    label = setup.label.replace(" ", "\xa0").replace(",\xa0", ", ")
    cells = [*([ReportCell(label)] if labelled else []), *values, *map(ReportCell, texts)]
    role = {TARGET: "target", RETAIN_MODEL: "retain_model"}.get(row.model, "unlearned")
    return ReportRow(row.model, tuple(cells), role=role, number=row.rank[0] if row.rank else 0)


def _cell(value: PooledValue) -> ReportCell:
    number, _, span = points(value).partition(" ")
    return ReportCell(number, small=span.strip("()") if value.low != value.high else "")


def _pairs(setups: Sequence[BoardSetup], modality: Modality, bound: float) -> Iterator[PageSection]:
    """Every method minus one, on the same people, runs and draws."""
    for setup in setups:
        pairs = [pair for pair in setup.pairs if pair.modality == modality]
        if pairs:
            where = f"{setup.label}: " if setup.label else ""
            note = (
                "Differences in points, on the same people, runs and draws. more, less: the 95 % interval leaves out "
                f"0; equal: the 90 % interval lies within {100 * bound:g} points of 0; open: neither."
            )
            yield PageSection(
                f"{where}minus {pairs[0].rival}, {MODALITY_LABELS[modality]}", note, table=_differences(pairs, bound)
            )


def _differences(pairs: Sequence[PairedRow], bound: float) -> ReportTable:
    columns = (*map(ReportColumn, ("forget", "utility", "distance")), ReportColumn("verdict on distance", words=True))
    rows = [
        ReportRow(
            pair.model,
            (*map(_cell, (pair.forget, pair.utility, pair.distance)), ReportCell(pair.distance.verdict(bound))),
            role="unlearned",
        )
        for pair in pairs
    ]
    return ReportTable(columns, tuple(rows), first="method")


def _record(setup: BoardSetup, row: PooledRow) -> dict[str, object]:
    values = {name: getattr(row, name) for name in VALUES}
    rank, low, high = row.rank or (None, None, None)
    return {
        **{"setup": setup.label, "model": row.model, "modality": row.modality},
        **{
            f"{n}{end}": part for n, v in values.items() for end, part in zip(("", "_low", "_high"), v[:3], strict=True)
        },
        **{"rank": rank, "rank_low": low, "rank_high": high, "on_front": row.front, "runs": row.runs},
    }
