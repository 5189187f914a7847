"""What a report says about its own metrics."""

from __future__ import annotations

import re
from pathlib import Path

from mllmu.core.records import MetricResult
from mllmu.report import ModelRow, ReportInput, render
from mllmu.report.inputs import TrustRow
from mllmu.report.numbers import Numbers
from mllmu.report.reading import readings
from mllmu.report.results import results_text, trust_table

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
    return ReportInput(title="x", models=(ModelRow(name="target", role="target"),), results=results, trust=trust)


def test_the_auc_stands_beside_the_metrics_of_the_forgotten_people_only() -> None:
    asked = report(WEAK)
    lines = [line.split("\t") for line in results_text(asked, Numbers(asked)).split("\n")[1:]]
    assert {(metric, split): auc for metric, split, _, _, auc, _ in lines} == {
        ("accuracy", "forget"): "0.60",
        ("accuracy", "retain"): "",
        ("bleu", "forget"): "",
    }


def test_the_table_shows_what_was_measured_and_a_dash_for_the_rest() -> None:
    found = trust_table(report(WEAK, STRONG))
    assert found is not None
    assert found.rows[0] == (
        "accuracy", "classification", "text only", "0.60", "0.41 to 0.79", "1.00", "0.50", "0.64",
    )  # fmt: skip
    assert found.rows[1][4] == found.rows[1][7] == "–"
    assert trust_table(report()) is None


def test_a_main_metric_that_hardly_beats_chance_is_said_and_a_good_one_is_not() -> None:
    def said(*trust: TrustRow) -> str:
        return " ".join(reading.text for _, found in readings(Numbers(report()), [], trust) for reading in found)

    assert "accuracy (classification, text only, AUC 0.60): hardly better than chance" in said(WEAK)
    assert "AUC" not in said(WEAK.model_copy(update={"auc": 0.9}), STRONG)


def test_the_page_has_the_table_where_it_was_measured(tmp_path: Path) -> None:
    for folder, trust in (("with", (WEAK,)), ("without", ())):
        render(report(*trust), tmp_path / folder)
    page = (tmp_path / "with" / "index.html").read_text(encoding="utf-8")
    assert "Which metrics to trust" in page
    assert re.search(r"<td class=\"num\">0\.41 to 0\.79</td>", page)
    assert "Which metrics to trust" not in (tmp_path / "without" / "index.html").read_text(encoding="utf-8")
