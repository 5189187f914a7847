"""Write a report: one HTML page that needs nothing else, CSV files, and the plots as PNG files.

Everything that comes from data, models or recipes is escaped by the template engine (autoescape is on for every
template), and the page's own policy forbids it to load anything or to run any script but the one it carries.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mllmu.core.declared import MODALITY_LABELS
from mllmu.core.records import MetricResult, Summary
from mllmu.core.runfolder import write_atomic
from mllmu.report import tables
from mllmu.report.attacked import attack_tables, is_over_holdout
from mllmu.report.controlled import control_tables, controls_asked
from mllmu.report.figures import Plot
from mllmu.report.findings import findings
from mllmu.report.images import PageImages
from mllmu.report.inputs import Example, ReportInput
from mllmu.report.leaks import leak_tables, told_table
from mllmu.report.numbers import ALL_TASKS, Numbers, TradeoffRow, csv_text, tradeoff_rows
from mllmu.report.plots import draw
from mllmu.report.printing import csv_of
from mllmu.report.requested import request_tables
from mllmu.report.scatter import MANY
from mllmu.report.summary_tables import summary_tables
from mllmu.report.table import SHADES, SIGNS, ReportTable
from mllmu.report.verdict import verdict

_TEMPLATES = Path(__file__).parent / "templates"
_UNFOLDED_REPLIES = 6
TEXT_ROOM = 1_000_000
"""Letters that all examples of a page may take."""


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
    rows, numbers = tradeoff_rows(report), Numbers(report)
    plots = draw(report, numbers, rows)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in (plot for of_section in plots.values() for plot in of_section):
        write_atomic(folder / "plots" / f"{plot.name}.png", plot.png)
    write_atomic(folder / "tradeoff.csv", csv_text(rows, numbers.noise))
    write_atomic(folder / "metrics.csv", csv_of(MetricResult.model_fields, (r.model_dump() for r in report.results)))
    if report.summaries:
        write_atomic(folder / "summaries.csv", csv_of(Summary.model_fields, (r.model_dump() for r in report.summaries)))
    page = folder / "index.html"
    write_atomic(page, _page(report, numbers, rows, plots))
    return page


@dataclass(frozen=True)
class PageSection:
    """A part of a small page: a heading, a sentence, and below it a plot, a table or links (label -> relative path)."""

    heading: str
    note: str = ""
    plot: Plot | None = None
    table: ReportTable | None = None
    links: Mapping[str, str] = field(default_factory=dict)


def write_small_page(path: Path, title: str, lead: str, sections: Sequence[PageSection]) -> Path:
    """Write a small page in the style of the report, whose tables of models can be sorted and filtered."""
    template = _environment().get_template("small.html.j2")
    write_atomic(path, template.render(title=title, lead=lead, sections=sections, **_script()))
    return path


def _page(
    report: ReportInput, numbers: Numbers, rows: Sequence[TradeoffRow], plots: Mapping[str, Sequence[Plot]]
) -> str:
    template, answer = _environment().get_template("index.html.j2"), verdict(numbers, rows)
    return template.render(
        report=report,
        numbers=numbers,
        rows=rows,
        tables=tables,
        verdict=answer,
        images=PageImages(),
        leaks=leak_tables(report, numbers),
        told=told_table(report, answer.model) if answer else None,
        findings=findings(numbers, rows, report.trust),
        overall=[row for row in rows if row.task == ALL_TASKS],
        plots=plots,
        summaries=summary_tables(report, numbers),
        controls=list(control_tables(report.controls, numbers.models)) if report.controls else [],
        asked_also=controls_asked(report.controls) if report.controls else "",
        attacks=attack_tables(report.attacks, numbers.models) if report.attacks else [],
        over_holdout=bool(report.attacks and is_over_holdout(report.attacks)),
        requests=request_tables(report.requests, numbers.models) if report.requests else [],
        examples=[_example(example, numbers) for example in _that_fit(report.examples)],
        glossary=_glossary(numbers),
        many=len(numbers.models) > MANY,
        **_script(),
    )


def _that_fit(examples: Sequence[Example]) -> list[Example]:
    """The first examples, as many as a page has room for."""
    room, found = TEXT_ROOM, list[Example]()
    for example in examples:
        room -= 300 + len(example.question) + sum(200 + len(reply) for reply in example.replies.values())
        if room < 0:
            break
        found.append(example)
    return found


def _script() -> dict[str, str]:
    """The script of a page, which is this package's own and so goes in as it is, and the hash its policy names."""
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return {"script": Markup(script), "script_hash": base64.b64encode(digest).decode()}  # noqa: S704


def _environment() -> Environment:
    """The templates; what they put into a page is escaped unless it is this package's own or drawn by matplotlib."""
    environment = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.trim_blocks = environment.lstrip_blocks = True
    style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    environment.globals |= {
        "style": Markup(style),  # noqa: S704
        "modality_labels": MODALITY_LABELS,
        "shades": SHADES,
        "signs": SIGNS,
    }
    environment.filters |= {"breakable": _breakable}
    return environment


def _breakable(name: str) -> Markup:
    """A name, escaped, that may be broken into lines after its underscores, dots and the like."""
    return Markup("<wbr>").join(re.findall(r"[^_@./-]*[_@./-]|[^_@./-]+", name))


def _glossary(numbers: Numbers) -> dict[str, str]:
    """What the headline metrics and the kinds of replies mean, by label, as far as they are declared."""
    names = [*(task.metric for task in numbers.declared.tasks.values()), *numbers.outcomes]
    return {info.label: info.about for name in names if (info := numbers.metric(name)).about}


def _example(example: Example, numbers: Numbers) -> dict[str, Any]:
    """An example with its replies in report order; beyond a handful, the yardsticks first and the rest folded."""
    roles = {row.name: row.role for row in numbers.models}
    order = [name for name in dict.fromkeys([*roles, *example.replies]) if name in example.replies]
    if len(order) > _UNFOLDED_REPLIES:
        order.sort(key=lambda name: roles.get(name) not in ("target", "retain_model", "base"))
    kinds = {name: "noise" if name == numbers.noise else f"kind-{i}" for i, name in enumerate(numbers.outcomes)}
    return {"it": example, "first": order[:_UNFOLDED_REPLIES], "rest": order[_UNFOLDED_REPLIES:], "kinds": kinds}
