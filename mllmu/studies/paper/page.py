"""The page of an experiment of the paper: a sentence per finding, the figures, published rows where they apply."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.runfolder import write_atomic
from mllmu.data.tasks import task_of
from mllmu.report.page import PageSection, write_small_page
from mllmu.report.printing import csv_of
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable
from mllmu.report.tables import reference_table
from mllmu.studies.board import board_setups
from mllmu.studies.board_page import report_of
from mllmu.studies.board_plots import board_plot
from mllmu.studies.paper.figures import paired_plot, utility_plot
from mllmu.studies.paper.findings import (
    LABELS,
    SETS,
    PairedCell,
    PaperFinding,
    RatioScores,
    findings,
    paired_cells,
    read_scores,
    utility_points,
)
from mllmu.studies.pool import PooledValue
from mllmu.studies.pool_text import points

PUBLISHED_MODEL, PUBLISHED_RATIO = "llava-1.5-7b-hf", "5"
"""What the published rows are about."""
FOLDER = "paper"


def write_paper(root: Path, *, origin: str, bound: float) -> tuple[Path, list[PaperFinding]]:
    """Write ``paper/index.html``, ``findings.md`` and ``paired.csv`` of a finished run.

    Args:
        root: the run folder.
        origin: where the settings of the methods are from, in words.
        bound: 0 to 1; differences below count as none.

    Returns:
        The path of the page, and the findings.
    """
    ratios = read_scores(root)
    found, cells = findings(ratios), paired_cells(ratios)
    folder = root / FOLDER
    sentences = "".join(f"- {finding.sentence(bound)}\n" for finding in found)
    write_atomic(
        folder / "findings.md", f"# Findings of the paper: {root.name}\n\n{_facts(ratios, origin)}\n\n{sentences}"
    )
    sections = [_findings(found, bound), *_published(ratios), *_paired(cells, bound), *_tradeoffs(root, ratios)]
    for section in sections:
        if section.plot:
            write_atomic(folder / f"{section.plot.name}.png", section.plot.png)
    if cells:
        write_atomic(folder / "paired.csv", csv_of(_HEAD, map(_record, cells)))
    page = report_of(ratios[0].run)
    links = {"findings.md": "findings.md"} | ({"paired.csv": "paired.csv"} if cells else {})
    links |= {"report of the run": os.path.relpath(page, folder)} if page else {}
    sections.append(PageSection("Files", links=links))
    title = f"Findings of the paper: {root.name}"
    return write_small_page(folder / "index.html", title, _facts(ratios, origin), sections), found


def _facts(ratios: Sequence[RatioScores], origin: str) -> str:
    """What was run, in words."""
    model, seed = ratios[0].run.settings.get("model.path", "not known"), ratios[0].run.seed
    gone = ", ".join(f"{len({s.person for s in r.scores if s.split == 'forget'})} ({r.run.key} %)" for r in ratios)
    unjudged = ", ".join(dict.fromkeys(model for each in ratios for model in each.unjudged))
    apart = f" Left out of what methods lose: {unjudged}, as the target takes no system prompt." if unjudged else ""
    return (
        f"Model {model}, seed {seed}, people to forget: {gone}. {origin} "
        f"Intervals draw people anew, the same for all models; one run says nothing about another training.{apart}"
    )


def _findings(found: Sequence[PaperFinding], bound: float) -> PageSection:
    rows = []
    for finding in found:
        numbers = "; ".join(measure.text(bound) for measure in finding.measures) or "this run does not compare them"
        rows.append(ReportRow(finding.claim, (ReportCell(finding.verdict(bound)), ReportCell(numbers))))
    columns = (ReportColumn("verdict", words=True), ReportColumn("numbers", words=True))
    note = (
        "arXiv:2410.22108. reproduced: the 95 % intervals of all numbers lie above 0; not reproduced: one lies below "
        f"0, or the 90 % interval of a difference within {100 * bound:g} points of 0; cannot tell: neither, or nothing "
        "was forgotten, or the models of a slope forgot alike."
    )
    return PageSection("Findings", note, table=ReportTable(columns, tuple(rows), first="finding"))


def _published(ratios: Sequence[RatioScores]) -> Iterator[PageSection]:
    """The paper's rows, where the model and the ratio are the paper's."""
    model = Path(ratios[0].run.settings.get("model.path", "")).name.lower()
    if model == PUBLISHED_MODEL and any(each.run.key == PUBLISHED_RATIO for each in ratios):
        note = "As reprinted in later work; independent re-runs differ by several points."
        yield PageSection("Published: LLaVA-1.5-7B, 5 % forgotten", note, table=reference_table())


def _paired(cells: Sequence[PairedCell], bound: float) -> Iterator[PageSection]:
    for ratio in dict.fromkeys(cell.ratio for cell in cells):
        own = [cell for cell in cells if cell.ratio == ratio]
        note = (
            "Score on the forgotten people, lower is more forgotten. minus: unimodal minus multimodal in points, "
            "paired over people; above 0 the multimodal one forgot more."
        )
        columns = tuple(ReportColumn(head) for head in ("multimodal", "unimodal", "minus", "target", "retain_model"))
        columns = (ReportColumn("task", words=True), ReportColumn("asked", words=True), *columns)
        columns = (*columns, ReportColumn("verdict", words=True))
        rows = tuple(_paired_row(cell, bound) for cell in own)
        yield PageSection(
            f"Unimodal against multimodal unlearning, {ratio} % forgotten",
            note,
            plot=paired_plot(own, f"paired_{ratio.replace('.', '_')}"),
            table=ReportTable(columns, rows, first="method"),
        )


def _paired_row(cell: PairedCell, bound: float) -> ReportRow:
    said = {"more": "multimodal forgot more", "less": "unimodal forgot more"}
    verdict = cell.difference.verdict(bound)
    known = (f"{100 * value:.1f}" for value in (cell.target, cell.retain_model))
    cells = (
        ReportCell(task_of(cell.task).label),
        ReportCell(MODALITY_LABELS[cell.modality]),
        *map(_cell, (cell.multimodal, cell.unimodal, cell.difference)),
        *map(ReportCell, known),
        ReportCell(said.get(verdict, verdict)),
    )
    return ReportRow(cell.method, cells, role="unlearned")


def _cell(value: PooledValue) -> ReportCell:
    number, _, span = points(value).partition(" ")
    return ReportCell(number, small=span.strip("()"))


def _tradeoffs(root: Path, ratios: Sequence[RatioScores]) -> Iterator[PageSection]:
    moved = utility_points(ratios)
    if not moved:
        return
    setups = board_setups([root])
    rows = [(setup.label, row) for setup in setups for row in setup.rows]
    for modality in dict.fromkeys(row.modality for _, row in rows):
        own = [(label, row) for label, row in rows if row.modality == modality]
        title = f"Trade-off{' over ratios' if len(setups) > 1 else ''}: {MODALITY_LABELS[modality]}"
        yield PageSection(title, plot=board_plot(own, f"tradeoff_{modality}"))
    absent = [LABELS[split] for split in SETS if all(point.split != split for point in moved)]
    note = (
        "Points forgotten against points lost, both against the target; the mean over the modalities that were asked."
    )
    if absent:
        note += (
            f" Not asked: {', '.join(absent)}; general benchmarks are asked with --set evaluate.benchmarks=[NAME], "
            "from the hub or a local copy."
        )
    yield PageSection("Utilities", note, plot=utility_plot(moved, "utilities"))


_HEAD = ("ratio", "method", "task", "modality", "multimodal", "unimodal", "difference", "low", "high", "target",
         "retain_model", "people")  # fmt: skip


def _record(cell: PairedCell) -> dict[str, object]:
    values = (cell.ratio, cell.method, cell.task, cell.modality, cell.multimodal.value, cell.unimodal.value,
              *cell.difference[:3], cell.target, cell.retain_model, cell.people)  # fmt: skip
    return dict(zip(_HEAD, values, strict=True))
