"""Plots of the report: one trade-off plot for each kind of utility, intervals where they belong, and text as it is."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers_report import DECLARED, MAIN_METRIC, metric

from mllmu.core.declared import Declared, SplitInfo
from mllmu.core.records import MetricResult
from mllmu.report import ModelRow, ReportInput, scatter, tradeoff_rows
from mllmu.report.figures import PALETTE, Plot, finish, new_figure, style
from mllmu.report.numbers import Interval, Numbers, TradeoffRow
from mllmu.report.plots import draw, split_score, tradeoff_plots

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


# --- text of a drawing


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>(.*?)</text>", svg)


def test_the_text_of_a_drawing_stays_as_it_is_and_coordinates_are_short() -> None:
    name = f'beta 0.12345, id="x" url(#x): {PALETTE["blue"]}'
    with style("t"):
        figure = new_figure(4, 3)
        axes = figure.add_subplot()
        axes.plot([0, 1, 2], [0.0009, 0.0021, 0.0034], label=name, gid="line")
        axes.set_title("learning_rate 0.00012")
        axes.set_yticks([0.0005, 0.0010, 0.00225], ["0.0005", "0.0010", "0.00225"])
        figure.legend()
        svg = finish(figure, "t", "lr 0.00012345", {"line": "0.98765 of 1"}).svg
    shown = texts(svg)
    assert {"0.0005", "0.0010", "0.00225", "learning_rate 0.00012", name} <= set(shown)
    assert "<title>lr 0.00012345</title>" in svg and "<title>0.98765 of 1</title>" in svg
    tags = "".join(re.findall(r"<[^>]+>", svg))
    assert re.search(r"\d\.\d\d", tags) and not re.search(r"\d\.\d{3}", tags)
    assert 'id="t-line"' in tags and PALETTE["blue"] not in tags


def test_small_losses_have_ticks_that_differ() -> None:
    points = {"nll": tuple((step, 0.0004 * step) for step in range(10))}
    one = report(general=False).model_copy(update={"curves": {"ga": points}})
    (plot,) = draw(one, Numbers(one), tradeoff_rows(one))["curves"]
    small = [text for text in texts(plot.svg) if text.startswith("0.00")]
    assert len(small) > 2 and len(set(small)) == len(small)


# --- intervals


def drawn(monkeypatch: pytest.MonkeyPatch, *rows: TradeoffRow) -> Any:
    """The axes of the trade-off plot of some rows."""
    kept: list[Any] = []

    def keep(figure: Any, name: str, alt: str, values: object) -> Plot:
        kept.append(figure.axes[0])
        return Plot(name, alt, "", b"")

    monkeypatch.setattr(scatter, "finish", keep)
    scatter.scatter([*rows], "t", "t", None, against="retain, mean score")
    return kept[0]


def row(number: int, name: str, forget: Interval, utility: Interval) -> TradeoffRow:
    role = "target" if name == "target" else "unlearned"
    return TradeoffRow(
        number, ModelRow(name=name, role=role), "text", "all", forget, utility, drop=0.90 - forget.value, gap=0.1
    )


def test_a_lower_forget_score_is_further_right_at_the_ends_of_its_interval_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target scores 90: a model at 5 (2 to 15) lies at 85, from 90 - 15 = 75 to 90 - 2 = 88."""
    axes = drawn(
        monkeypatch,
        row(1, "target", Interval(0.90, 0.70, 0.95), Interval(0.80, 0.60, 0.85)),
        row(2, "npo", Interval(0.05, 0.02, 0.15), Interval(0.50, 0.10, 0.55)),
        row(3, "ga", Interval(0.30), Interval(0.40)),
    )
    ends = sorted(
        tuple(sorted(round(float(x), 6) for x in segment[:, axis]))
        for axis in (0, 1)
        for bars in axes.collections
        for segment in bars.get_segments()
        if segment[0][axis] != segment[1][axis]
    )
    assert ends == [(-5.0, 20.0), (10.0, 55.0), (60.0, 85.0), (75.0, 88.0)]
    (left, right), (down, up) = axes.get_xlim(), axes.get_ylim()
    assert left < -5 and right > 88 and down < 10 and up > 85
