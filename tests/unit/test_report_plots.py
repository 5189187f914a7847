"""General benchmarks in the report: one trade-off plot for each kind of utility, and none of it without them."""

from __future__ import annotations

from helpers_report import DECLARED, MAIN_METRIC, metric

from mllmu.core.declared import Declared, SplitInfo
from mllmu.core.records import MetricResult
from mllmu.report import ModelRow, ReportInput, tradeoff_rows
from mllmu.report.figures import PALETTE
from mllmu.report.numbers import Numbers
from mllmu.report.plots import split_score, tradeoff_plots

BENCHMARK = SplitInfo(label="MMMU", kind="benchmark", metric="mmmu_accuracy")
BENCHMARKED = Declared(
    metrics={**DECLARED.metrics, "mmmu_accuracy": metric("MMMU accuracy")},
    tasks=DECLARED.tasks,
    splits={**DECLARED.splits, "mmmu": BENCHMARK},
)

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
    return ReportInput(title="t", models=tuple(models), results=tuple(results), declared=BENCHMARKED)


def names(shown: ReportInput) -> list[str]:
    return [plot.name for plot in tradeoff_plots(Numbers(shown), tradeoff_rows(shown))]


def test_each_kind_of_utility_has_a_plot_of_its_own() -> None:
    against = [name for name in names(report(general=True)) if "against" in name]
    assert against == ["tradeoff_against_retain", "tradeoff_against_celebrity", "tradeoff_against_mmmu"]
    assert not [name for name in names(report(general=False)) if "against" in name]


def test_mmmu_is_the_share_of_all_its_questions() -> None:
    found = split_score(Numbers(report(general=True)), "ga", "mmmu", "image_text")
    assert found is not None
    assert found.value == (0.2 * 30 + 0.0 * 10) / 40


def test_every_colour_of_a_plot_follows_the_reader_s_scheme() -> None:
    """Colours outside of the palette would stay as they are when the page turns dark."""
    shown = report(general=True)
    for plot in tradeoff_plots(Numbers(shown), tradeoff_rows(shown)):
        assert not [colour for colour in PALETTE.values() if colour in plot.svg]
        assert "#" not in plot.svg.replace('href="#', "").replace("url(#", "")
