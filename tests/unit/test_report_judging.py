"""What judges said is shown in tables of its own, and the rule is never passed off as a language model."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mllmu.config.load import parse
from mllmu.core.errors import RecipeError
from mllmu.core.records import MetricResult
from mllmu.evaluation.judges.rule import Rule
from mllmu.report import ModelRow, ReportInput, render, terminal_judgements
from mllmu.report.judging import judgements
from mllmu.report.numbers import Numbers


def points(model: str, judge: str, modality: str, value: float | None, lost: int = 0) -> MetricResult:
    interval = (None, None) if value is None else (value - 1, value + 1)
    return MetricResult.model_validate(
        {
            **{"model": model, "metric": f"factuality_{judge}", "split": "forget", "task": "generation"},
            **{"modality": modality, "value": value, "ci_low": interval[0], "ci_high": interval[1]},
            **{"num": 4 - lost, "num_unparsed": lost, "num_profiles": 2},
        }
    )


def report(*results: MetricResult) -> ReportInput:
    rows = (ModelRow(name="target", role="target"), ModelRow(name="<b>ga</b>", role="unlearned", method="ga"))
    return ReportInput(title="t", models=rows, results=results)


RESULTS = (
    *(points("target", judge, modality, 8.25) for judge in ("rule", "gpt") for modality in ("image_text", "text")),
    *(points("<b>ga</b>", judge, "image_text", 2.0, lost=1) for judge in ("rule", "gpt")),
    *(points("<b>ga</b>", judge, "text", None, lost=1) for judge in ("rule", "gpt")),
)


def plain(parts: list[Any]) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.export_text()


def test_every_judge_has_a_table_with_intervals_and_what_was_not_judged() -> None:
    shown = judgements(report(*RESULTS), Numbers(report(*RESULTS)))
    assert [one.judge for one in shown] == ["gpt", "rule"]
    assert shown[0].grid.head == ("model", "forget, image + text", "forget, text only")
    assert shown[0].grid.rows == (
        ("target", "8.2, 7.2–9.2 (n 4)", "8.2, 7.2–9.2 (n 4)"),
        ("<b>ga</b>", "2.0, 1.0–3.0 (n 3, 1 not judged)", "– (n 3, 1 not judged)"),
    )
    assert "no language model" in shown[1].note and "no language model" not in shown[0].note


def test_the_page_and_the_terminal_show_them(tmp_path: Path) -> None:
    page = render(report(*RESULTS), tmp_path).read_text(encoding="utf-8")
    for part in ("Factuality, judge gpt", "Factuality, judge rule", "2.0, 1.0–3.0 (n 3, 1 not judged)"):
        assert part in page
    assert "<b>ga</b>" not in page
    text = plain(terminal_judgements(report(*RESULTS)))
    assert "factuality, judge 'rule'" in text and "8.2 / 8.2" in text and "2.0 / –" in text


def test_without_a_judge_there_is_no_table(tmp_path: Path) -> None:
    assert terminal_judgements(report()) == []
    assert "Factuality" not in render(report(), tmp_path).read_text(encoding="utf-8")


def test_the_rule_keeps_its_name_under_any_label() -> None:
    assert Rule().name == "rule" and Rule(label="gpt4").name == "rule_gpt4"


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"judges": ["rule"], "tasks": ["cloze"]}, "judges read free answers only"),
        ({"judges": ["rul"]}, "no 'rul'. Did you mean 'rule'"),
        ({"judges": ["rule", "rule"]}, r"two are named alike \(rule, rule\)"),
        ({"judges": [{"name": "rule", "lable": "x"}]}, r"evaluate\.judges\[0\]\.lable: unknown setting of 'rule'"),
    ],
)
def test_a_wrong_judge_in_a_recipe_is_named(evaluate: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as error:
        parse({"name": "r", "evaluate": evaluate})
    assert isinstance(error.value, RecipeError) or "PluginError" in type(error.value).__name__
