"""Tables of a page, sorted by a click in a real browser: by what a cell's value is, whatever stands around it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mllmu.report.page import PageSection, write_small_page
from mllmu.report.table import ReportCell, ReportColumn, ReportRow, ReportTable

MODELS = ("ga", "npo", "kl", "dpo", "idk")
LONG = "identical to the target in 97 % of responses"
COLUMNS: dict[str, tuple[tuple[ReportCell, ...], str, str]] = {
    "score": (
        (
            ReportCell("45.2 (91.0)", small="40–50", shade=5),
            ReportCell("9.1", small="3–50", shade=0, below="12 of 20 unparsed"),
            ReportCell("88.1", chips=((LONG, "collapsed"), ("front", "front"))),
            ReportCell("–", title="not asked"),
            ReportCell("52.0", shade=1, beyond=True),
        ),
        "npo ga idk kl dpo",
        "kl idk ga npo dpo",
    ),
    "change": (
        (
            ReportCell("-5.0", small="-12 to 3", shade=4, below="request 3 after 4"),
            ReportCell("+12.5", shade=5),
            ReportCell("0.0"),
            ReportCell("-20.0", shade=0),
            ReportCell("not supported", title="why"),
        ),
        "dpo ga kl npo idk",
        "npo kl ga dpo idk",
    ),
    "time": (
        tuple(map(ReportCell, ("10 min 05 s", "45.0 s", "2 h 02 min", "–", "7.2 s"))),
        "idk npo ga kl dpo",
        "kl ga npo idk dpo",
    ),
    "trainable": (
        tuple(map(ReportCell, ("1,234,567", "999", "12,000", "7,062,000,000", "–"))),
        "npo kl ga dpo idk",
        "dpo ga kl npo idk",
    ),
    "share": (
        tuple(map(ReportCell, ("100 %", "9 %", "41 %", "–", "12.5 %"))),
        "npo idk kl ga dpo",
        "ga kl idk npo dpo",
    ),
    "p": (
        tuple(map(ReportCell, ("0.040", "<0.001", "0.5", "0.002", "–"))),
        "npo dpo ga kl idk",
        "kl ga dpo npo idk",
    ),
    "setting": (
        (
            ReportCell("rate 0.10", chips=(("warning", "front"),)),
            ReportCell("rate 0.9"),
            ReportCell("–"),
            ReportCell("a sentence"),
            ReportCell("", fold="epochs=2"),
        ),
        "dpo npo ga idk kl",
        "idk ga npo dpo kl",
    ),
}
"""By heading, the cells of all models, and their order from the lowest up and from the highest down."""


def clicked(folder: Path, table: ReportTable) -> dict[str, list[list[str]]]:
    """By heading, the order of the models after one click and after two."""
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium")
    page = write_small_page(folder / "page.html", "t", "", [PageSection("s", table=table)]).read_text(encoding="utf-8")
    look = """<script>
    const body = document.querySelector('table.sortable').tBodies[0], seen = {};
    const names = () => [...body.querySelectorAll('tr.unlearned th')].map(e => e.dataset.name);
    for (const head of document.querySelectorAll('table.sortable th[tabindex]')) {
      const orders = [];
      for (let i = 0; i < 3; i++) { head.click(); orders.push(names()); }
      seen[head.firstChild.textContent.trim()] = orders.slice(0, 2);
    }
    const out = document.createElement('pre'); out.id = 'seen'; out.textContent = JSON.stringify(seen);
    document.body.append(out)</script>"""
    driven = folder / "driven.html"
    driven.write_text(re.sub(r"<meta http-equiv=.Content-Security.*?>", "", page).replace("</body>", look + "</body>"))
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom", driven.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found: dict[str, list[list[str]]] = json.loads(
        html.unescape(re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout)[0])
    )
    return found


def test_every_kind_of_cell_sorts_by_its_value_and_what_is_missing_comes_last(tmp_path: Path) -> None:
    cells = [column for column, _, _ in COLUMNS.values()]
    rows = [
        ReportRow(name, tuple(column[index] for column in cells), "unlearned", index + 1, bar=(bar, 100 - bar))
        for index, (name, bar) in enumerate(zip(MODELS, (50.0, 9.5, 100.0, 0.0, 30.0), strict=True))
    ]
    rows = [ReportRow("target", tuple(ReportCell("1") for _ in cells), "target", bar=(1.0, 99.0)), *rows]
    heads = tuple(ReportColumn(head, words=head == "setting") for head in COLUMNS)
    found = clicked(tmp_path, ReportTable(heads, tuple(rows), bar=("both", "neither"), bar_head="facts"))
    expected = {head: [up.split(), down.split()] for head, (_, up, down) in COLUMNS.items()}
    by_name = ["dpo", "ga", "idk", "kl", "npo"]
    by_bar = ["dpo", "npo", "idk", "ga", "kl"]
    assert found == {"model": [by_name, by_name[::-1]], "facts": [by_bar, by_bar[::-1]], **expected}
