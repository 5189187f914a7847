"""Tables about metrics: which can be trusted, what judges said, and what a new plug-in brings along."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from helpers_report import DECLARED
from rich.console import Console

from mllmu.core.declared import Declared, MetricInfo, SplitInfo, TaskInfo
from mllmu.core.records import MetricResult
from mllmu.report import ModelRow, ReportInput, render, terminal_tables
from mllmu.report.findings import findings
from mllmu.report.inputs import TrustRow
from mllmu.report.numbers import Numbers
from mllmu.report.tables import results_text, set_tables, trust_table

WEAK = TrustRow(
    metric="accuracy", task="classification", modality="text", auc=0.6, auc_low=0.41, auc_high=0.79,
    quantisation=1.0, relearning=0.5, trust=0.643, num_with=10, num_without=10,
)  # fmt: skip
STRONG = WEAK.model_copy(update={"metric": "probability", "auc": 0.98, "auc_low": None, "trust": None})


def report(*trust: TrustRow) -> ReportInput:
    places = [("accuracy", "forget"), ("accuracy", "retain"), ("bleu", "forget")]
    results = tuple(
        MetricResult(
            model="target", metric=metric, split=split, task="classification", modality="text", value=0.5,
            ci_low=0.4, ci_high=0.6, num=10, num_unparsed=0, num_profiles=3,
        )
        for metric, split in places
    )  # fmt: skip
    models = (ModelRow(name="target", role="target"),)
    return ReportInput(title="x", models=models, results=results, trust=trust, declared=DECLARED)


def test_the_auc_stands_beside_the_metrics_of_the_forgotten_people_only() -> None:
    asked = report(WEAK)
    lines = [line.split("\t") for line in results_text(asked, Numbers(asked)).split("\n")[1:]]
    assert {(metric, split): auc for metric, split, _, _, auc, _ in lines} == {
        ("accuracy", "forget"): "0.60",
        ("accuracy", "retain"): "",
        ("bleu", "forget"): "",
    }


def test_the_table_shows_what_was_measured_and_a_dash_for_the_rest() -> None:
    first, second = trust_table((WEAK, STRONG)).rows
    assert (first.name, *(cell.text for cell in first.cells)) == (
        "accuracy", "classification", "text only", "0.60", "0.41–0.79", "1.00", "0.50", "0.64",
    )  # fmt: skip
    assert second.cells[3].text == second.cells[6].text == "–"


def test_a_main_metric_that_hardly_beats_chance_is_said_and_a_good_one_is_not() -> None:
    def said(*trust: TrustRow) -> str:
        return " ".join(finding.text for _, found in findings(Numbers(report()), [], trust) for finding in found)

    assert "Accuracy (Classification, text only, AUC 0.60): hardly better than chance" in said(WEAK)
    assert "AUC" not in said(WEAK.model_copy(update={"auc": 0.9}), STRONG)


def test_the_page_has_the_table_where_it_was_measured(tmp_path: Path) -> None:
    for folder, trust in (("with", (WEAK,)), ("without", ())):
        render(report(*trust), tmp_path / folder)
    page = (tmp_path / "with" / "index.html").read_text(encoding="utf-8")
    assert "Which metrics to trust" in page
    assert re.search(r"<td class=\"num\">0\.41–0\.79</td>", page)
    assert "Which metrics to trust" not in (tmp_path / "without" / "index.html").read_text(encoding="utf-8")


# --- judges

ABOUT = {
    "gpt": "1 to 10 points by a language model",
    "rule": "1 to 10 points by rules; no language model has read the answers",
}


def judge(name: str) -> MetricInfo:
    about = {"about": ABOUT[name], "range": (1.0, 10.0), "unit": "points", "table": True}
    return MetricInfo(label=f"Factuality, judge {name}", percent=False, decimals=1, **about)


JUDGES = {f"factuality_{name}": judge(name) for name in ABOUT}


def points(model: str, judge: str, modality: str, value: float | None, lost: int = 0) -> MetricResult:
    interval = (None, None) if value is None else (value - 1, value + 1)
    return MetricResult.model_validate(
        {
            **{"model": model, "metric": f"factuality_{judge}", "split": "forget", "task": "generation"},
            **{"modality": modality, "value": value, "ci_low": interval[0], "ci_high": interval[1]},
            **{"num": 4 - lost, "num_unparsed": lost, "num_profiles": 2},
        }
    )


def judged(*results: MetricResult) -> ReportInput:
    rows = (ModelRow(name="target", role="target"), ModelRow(name="<b>ga</b>", role="unlearned", method="ga"))
    declared = DECLARED.model_copy(update={"metrics": {**DECLARED.metrics, **JUDGES}})
    return ReportInput(title="t", models=rows, results=results, declared=declared)


RESULTS = (
    *(points("target", judge, modality, 8.25) for judge in ABOUT for modality in ("image_text", "text")),
    *(points("<b>ga</b>", judge, "image_text", 2.0, lost=1) for judge in ABOUT),
    *(points("<b>ga</b>", judge, "text", None, lost=1) for judge in ABOUT),
)


def plain(parts: list[Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


def test_every_judge_has_tables_with_intervals_and_what_was_not_judged() -> None:
    shown = set_tables(Numbers(judged(*RESULTS)))
    titles = [f"Factuality, judge {name}, {m}" for name in ("gpt", "rule") for m in ("image + text", "text only")]
    assert [table.title for table in shown] == titles
    assert [[column.head for column in table.columns] for table in shown] == [["Forget"]] * 4
    cells = [[(c.text, c.small, c.below) for row in table.rows for c in row.cells] for table in shown[:2]]
    assert cells == [
        [("8.2", "7.2–9.2", ""), ("2.0", "1.0–3.0", "1 of 4 unparsed")],
        [("8.2", "7.2–9.2", ""), ("–", "", "1 of 4 unparsed")],
    ]
    assert "no language model" in shown[2].aside and "no language model" not in shown[0].aside


def test_the_page_and_the_terminal_show_them(tmp_path: Path) -> None:
    page = render(judged(*RESULTS), tmp_path).read_text(encoding="utf-8")
    for part in ("Factuality, judge gpt", "Factuality, judge rule", "1.0–3.0", "1 of 4 unparsed"):
        assert part in page
    assert "<b>ga</b>" not in page
    text = plain(terminal_tables(judged(*RESULTS)))
    assert "Factuality, judge rule" in text and "8.2 / 8.2" in text and "2.0 / –" in text


def test_without_a_judge_there_is_no_table(tmp_path: Path) -> None:
    assert len(terminal_tables(judged())) == 1
    assert "Factuality" not in render(judged(), tmp_path).read_text(encoding="utf-8")


# --- plug-ins that the report has never heard of


def test_a_new_task_metric_and_benchmark_appear_with_their_own_words(tmp_path: Path) -> None:
    declared = Declared(
        metrics={"glee": MetricInfo(label="Glee", unit="smiles", percent=False, decimals=1, range=(0.0, None))},
        tasks={"riddle": TaskInfo(label="Riddles", metric="glee")},
        splits={**DECLARED.splits, "zoo": SplitInfo(label="The zoo", kind="benchmark")},
    )
    levels = {"target": 4.0, "retain_model": 1.0, "ga": 1.5}
    results = tuple(
        MetricResult(
            model=model, metric="glee", split=split, task="riddle", modality="text", value=value,
            ci_low=value - 0.5, ci_high=value + 0.5, num=9, num_unparsed=0, num_profiles=9,
        )
        for model, value in levels.items()
        for split in ("forget", "retain", "celebrity", "zoo")
    )  # fmt: skip
    models = tuple(ModelRow(name=n, role="unlearned" if n == "ga" else n) for n in levels)  # type: ignore[arg-type]
    report = ReportInput(title="t", models=models, results=results, declared=declared)
    (table,) = set_tables(Numbers(report))
    assert (table.title, table.aside) == ("Riddles, text only", "Glee, smiles")
    assert [column.head for column in table.columns] == ["Forget", "Retain", "Celebrity", "The zoo"]
    assert [cell.shade for cell in table.rows[2].cells] == [
        5,
        2,
        2,
        2,
    ]  # 1 - 0.5 / 3; 1.5 of 4
    page = render(report, tmp_path).read_text(encoding="utf-8")
    assert "Riddles, text only" in page and "The zoo" in page
    assert (tmp_path / "plots" / "tradeoff_against_zoo.png").is_file()
