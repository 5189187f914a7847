"""General benchmarks in the report: one trade-off plot for each kind of utility, and none of it without them."""

from __future__ import annotations

from mllmu.core.records import MetricResult
from mllmu.report import ModelRow, ReportInput
from mllmu.report.numbers import MAIN_METRIC, Numbers
from mllmu.report.plots import _utility, tradeoff_plots
from mllmu.report.tradeoff import tradeoff_rows

SCORES = {"target": (0.9, 0.8, 0.7), "retain_model": (0.3, 0.8, 0.7), "ga": (0.4, 0.5, 0.2)}
"""Accuracy on forget, on retain and celebrity, and on MMMU."""


def result(
    model: str, split: str, value: float, *, metric: str = "accuracy", num: int = 10, task: str = ""
) -> MetricResult:
    return MetricResult.model_validate(
        {
            "model": model, "metric": metric, "split": split, "task": task or "classification",
            "modality": "image_text", "value": value, "ci_low": None, "ci_high": None, "num": num,
            "num_unparsed": 0, "num_profiles": num,
        }
    )  # fmt: skip


def report(*, general: bool) -> ReportInput:
    results = []
    for model, (forget, retain, mmmu) in SCORES.items():
        results += [
            result(model, "forget", forget),
            result(model, "retain", retain),
            result(model, "celebrity", retain),
        ]
        if general:
            results.append(result(model, "mmmu", mmmu, metric="mmmu_accuracy", num=30))
            results.append(result(model, "mmmu", 0.0, metric="mmmu_accuracy", num=10, task="cloze"))
            results.append(result(model, "mmmu", 0.5))
            results.append(result(model, "mmmu", 0.5, metric=MAIN_METRIC["cloze"], task="cloze"))
    models = [ModelRow(name=name, role="unlearned" if name == "ga" else name) for name in SCORES]  # type: ignore[arg-type]
    return ReportInput(title="t", models=tuple(models), results=tuple(results))


def names(shown: ReportInput) -> list[str]:
    return [plot.name for plot in tradeoff_plots(Numbers(shown), tradeoff_rows(shown))]


def test_each_kind_of_utility_has_a_plot_of_its_own() -> None:
    against = [name for name in names(report(general=True)) if "against" in name]
    assert against == ["tradeoff_against_retain", "tradeoff_against_celebrity", "tradeoff_against_mmmu"]
    assert not [name for name in names(report(general=False)) if "against" in name]


def test_mmmu_is_the_share_of_all_its_questions() -> None:
    found = _utility(Numbers(report(general=True)), "ga", "mmmu")
    assert found is not None
    assert found.value == (0.2 * 30 + 0.0 * 10) / 40
