"""Write a report: one HTML page that needs nothing else, ``tradeoff.csv``, and the plots as PNG files.

Everything that comes from data, models or recipes is escaped by the template engine (autoescape is on for every
template), and the page's own policy forbids it to load anything or to run any script but the one it carries.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table

from mllmu.report import plots, provenance, results, tables
from mllmu.report.figures import Plot
from mllmu.report.inputs import Example, ReportInput
from mllmu.report.judging import judgements
from mllmu.report.numbers import FEW_PEOPLE, MODALITY_LABELS, Numbers, between
from mllmu.report.reading import headline, readings
from mllmu.report.scatter import MANY, plottable
from mllmu.report.tradeoff import ALL_TASKS, TradeoffRow, csv_text, overview, tradeoff_rows
from mllmu.report.whole import CASES, whole_tables

_TEMPLATES = Path(__file__).parent / "templates"
_FEW_REPLIES = 6
_SHOWN_FIRST = ("target", "retain_model", "base")


def render(report: ReportInput, folder: Path) -> Path:
    """Write the report into a folder, which is created; the same input gives the same bytes.

    Args:
        report: everything to show.
        folder: gets ``index.html``, ``plots/*.png``, and the numbers as ``tradeoff.csv``, ``metrics.csv`` and, if there
            are any about whole models, ``summaries.csv``; files of the same names are replaced.

    Returns:
        The path of ``index.html``.

    Raises:
        DataError: results that cannot be compared, see :func:`mllmu.report.inputs.check`.
    """
    rows = tradeoff_rows(report)
    numbers = Numbers(report)
    drawn = _draw(report, numbers, rows)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in drawn:
        (folder / "plots" / f"{plot.name}.png").write_bytes(plot.png)
    sheets = {"tradeoff": csv_text(rows), "metrics": results.results_csv(report.results)}
    if report.summaries:
        sheets["summaries"] = results.summaries_csv(report.summaries)
    for name, text in sheets.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8", newline="")
    page = folder / "index.html"
    page.write_text(_page(report, numbers, rows, drawn), encoding="utf-8", newline="")
    return page


def terminal_table(report: ReportInput) -> Table:
    """The result in a few lines for a terminal: model by forget, test, retain, celebrity, and the garbled share.

    Raises:
        DataError: results that cannot be compared.
    """
    rows = tradeoff_rows(report)
    return tables.terminal(report, Numbers(report), rows)


def _draw(report: ReportInput, numbers: Numbers, rows: list[TradeoffRow]) -> list[Plot]:
    drawn = plots.tradeoff_plots(numbers, rows)
    drawn += [plot for plot in (plots.modality_plot(numbers),) if plot]
    drawn += plots.outcome_plots(numbers)
    return drawn + [plot for plot in (plots.curve_plot(report, numbers),) if plot]


def _page(report: ReportInput, numbers: Numbers, rows: list[TradeoffRow], drawn: list[Plot]) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = _data_uri
    environment.filters["breakable"] = _breakable
    environment.filters["between"] = between
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    overall = [row for row in rows if row.task == ALL_TASKS]
    few = max((r.num_profiles for r in report.results if r.split == "forget"), default=FEW_PEOPLE)
    return environment.get_template("index.html.j2").render(
        report=report,
        numbers=numbers,
        headline=headline(numbers),
        readings=readings(numbers, rows, report.trust),
        overview=overview(rows),
        few=few if few < FEW_PEOPLE else 0,
        partial=[row for row in overall if row.partial],
        unplotted=[row for row in overall if not plottable(row)],
        plots=_grouped(drawn),
        sets=tables.four_set_tables(numbers, report.trust),
        ks=tables.ks_table(report, numbers),
        sheets=whole_tables(report, numbers),
        cases=CASES,
        judgements=judgements(report, numbers),
        metrics=results.results_text(report, numbers) if report.results else "",
        num_results=len(report.results),
        trust=results.trust_table(report),
        costs=tables.cost_rows(numbers),
        examples=[_example_view(example, numbers) for example in report.examples],
        provenance=provenance.provenance_rows(report.provenance),
        stages=provenance.stage_rows(report.provenance),
        recipe=provenance.recipe_text(report.provenance),
        reference=provenance.REFERENCE,
        many=len(numbers.models) > MANY,
        modality_labels=MODALITY_LABELS,
        # Both texts are this package's own files, so they may go into the page as they are.
        style=Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _grouped(drawn: list[Plot]) -> dict[str, list[dict[str, Any]]]:
    """Plots by section. The SVG text is safe to embed: matplotlib escapes every name it writes."""
    groups: dict[str, list[dict[str, Any]]] = {k: [] for k in ("main", "task", "modalities", "outcomes", "curves")}
    for plot in drawn:
        kind = plot.name.split("_")[0]
        if kind == "tradeoff":
            kind = "main" if plot.name.startswith(f"tradeoff_{ALL_TASKS}_") else "task"
        groups[kind].append({"name": plot.name, "alt": plot.alt, "svg": Markup(plot.svg)})  # noqa: S704
    return groups


def _breakable(name: str) -> Markup:
    """A name, escaped, that may be broken into lines after its underscores, dots and the like."""
    return Markup("<wbr>").join(re.findall(r"[^_@./-]*[_@./-]|[^_@./-]+", name))


def _example_view(example: Example, numbers: Numbers) -> dict[str, Any]:
    """An example with its replies in report order; beyond a handful, the yardsticks first and the rest folded."""
    order = [row.name for row in numbers.models if row.name in example.replies]
    order += [name for name in example.replies if name not in order]
    roles = {row.name: row.role for row in numbers.models}
    if len(order) > _FEW_REPLIES:
        first = [name for name in order if roles.get(name) in _SHOWN_FIRST]
        first += [name for name in order if name not in first][: max(0, _FEW_REPLIES - len(first))]
    else:
        first = order
    return {"it": example, "first": first, "rest": [name for name in order if name not in first]}
