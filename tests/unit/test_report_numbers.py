"""Where models stand: intervals that can be true, tasks that cannot be read, order, and names that cover nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from helpers_report import DECLARED, MAIN_METRIC

from mllmu.core.process import rng
from mllmu.core.records import MetricResult, TaskName
from mllmu.report import ModelRow, ReportInput, render, terminal_tables, tradeoff_rows
from mllmu.report.findings import findings
from mllmu.report.numbers import Interval, Numbers, possible
from mllmu.report.printing import show_span
from mllmu.report.scatter import Box, position

Levels = dict[TaskName, tuple[float | None, float]]


def report(**models: Levels) -> ReportInput:
    """Asked with text; per model and task the forget and the retain score, None where nothing could be read."""
    rows = [
        ModelRow(name=name, role=name if name in ("target", "retain_model") else "unlearned", method="m")  # type: ignore[arg-type]
        for name in models
    ]
    results = [
        MetricResult(
            model=name, metric=MAIN_METRIC[task], split=split, task=task, modality="text", value=value,
            ci_low=None if value is None else value - 0.1, ci_high=None if value is None else value + 0.1,
            num=0 if value is None else 20, num_unparsed=20 if value is None else 0, num_profiles=10,
        )
        for name, levels in models.items()
        for task, pair in levels.items()
        for split, value in zip(("forget", "retain"), pair, strict=True)
    ]  # fmt: skip
    return ReportInput(title="t", models=tuple(rows), results=tuple(results), declared=DECLARED)


TARGET: Levels = {"classification": (0.9, 0.9), "cloze": (0.7, 0.8)}
GOLD: Levels = {"classification": (0.3, 0.9), "cloze": (0.1, 0.8)}
DUMB: Levels = {"classification": (None, 0.9), "cloze": (0.2, 0.6)}


def test_an_interval_is_cut_at_what_is_possible() -> None:
    assert possible(0.9, 0.5, 1.3, 10) == Interval(0.9, 0.5, 1.0)
    assert possible(0.1, -0.4, 0.6, 10) == Interval(0.1, 0.0, 0.6)
    assert possible(7.5, 6.0, 12.0, 10, (1.0, 10.0)) == Interval(7.5, 6.0, 10.0), "points, not a share"
    assert possible(-1.0, -2.0, 0.5, 10, (None, 0.0)) == Interval(-1.0, -2.0, 0.0), "log-probabilities"


def test_everybody_alike_is_no_certainty() -> None:
    # 0.025 = p^G: with two people all right, a share of 0.158 like them still gives that in one of forty draws
    assert possible(1.0, 1.0, 1.0, 2) == Interval(1.0, pytest.approx(0.1581, abs=1e-4), 1.0)
    assert possible(0.0, 0.0, 0.0, 2) == Interval(0.0, 0.0, pytest.approx(0.8419, abs=1e-4))
    alike = possible(0.5, 0.5, 0.5, 2)
    assert show_span(alike.low, alike.high) == "all alike"


def test_a_task_that_cannot_be_read_is_named_and_the_rest_is_compared_on_the_rest() -> None:
    rows = {
        row.model.name: row
        for row in tradeoff_rows(report(target=TARGET, retain_model=GOLD, npo=DUMB))
        if row.task == "all"
    }
    row = rows["npo"]
    assert row.missing == ("classification",)
    assert row.forget is not None and row.forget.value == pytest.approx(0.2)
    assert row.drop == pytest.approx(0.5), "0.7 - 0.2 over cloze alone, not 0.8 - 0.2"
    assert row.gap == pytest.approx(0.1), "0.2 - 0.1"
    # the target has 0.85 over both tasks and 0.8 over cloze, so the dot stands 0.2 below the target's
    assert row.level == pytest.approx(0.85 - 0.2)
    assert not rows["target"].missing and rows["target"].level == pytest.approx(0.85)


def test_a_partly_readable_model_is_neither_on_the_front_nor_keeps_others_off_it() -> None:
    worse: Levels = {"classification": (0.5, 0.5), "cloze": (0.3, 0.4)}
    rows = tradeoff_rows(report(target=TARGET, retain_model=GOLD, npo=DUMB, ga=worse))
    assert {row.model.name for row in rows if row.on_front and row.task == "all"} == {"ga"}


def test_a_partly_readable_model_is_said_shown_and_written(tmp_path: Path) -> None:
    asked = report(target=TARGET, retain_model=GOLD, npo=DUMB)
    page = render(asked, tmp_path).read_text(encoding="utf-8")
    assert "(20.0)" in page and "npo, text only, without classification" in page
    assert "not fully readable" in page, "the legend of the plot"
    rows = list(csv.DictReader((tmp_path / "tradeoff.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["tasks_missing"] for row in rows if row["model"] == "npo"] == ["classification", "", ""]
    said = [r.text for _, found in findings(Numbers(asked), tradeoff_rows(asked)) for r in found]
    assert any(text.startswith("npo (classification): in these tasks not one reply could be read") for text in said)
    cells = [list(column.cells) for column in terminal_tables(asked)[0].columns]
    assert cells[1] == ["80.0", "20.0", "(20.0)"]


def test_a_model_of_which_nothing_can_be_read_stays_a_dash() -> None:
    nothing: Levels = {"classification": (None, 0.9), "cloze": (None, 0.6)}
    row = next(r for r in tradeoff_rows(report(target=TARGET, retain_model=GOLD, npo=nothing)) if r.model.name == "npo")
    assert row.forget is None and row.drop is None and not row.missing


def test_models_are_ordered_by_their_distance_from_the_retain_model() -> None:
    far: Levels = {"classification": (0.9, 0.9), "cloze": (0.7, 0.8)}
    broken: Levels = {"classification": (0.3, 0.5), "cloze": (0.1, 0.4)}
    near: Levels = {"classification": (0.4, 0.8), "cloze": (0.2, 0.8)}
    asked = report(far=far, target=TARGET, broken=broken, near=near, retain_model=GOLD)
    assert [row.name for row in Numbers(asked).models] == ["target", "retain_model", "near", "broken", "far"]
    numbers = Numbers(asked)
    lines = {row.name: numbers.distance(row) for row in numbers.models}
    assert lines["near"] == pytest.approx((0.1**2 + 0.05**2) ** 0.5)
    assert lines["broken"] == pytest.approx(0.4), "it forgot as the retain_model did, and lost 0.4 of utility"
    assert lines["retain_model"] == 0


def test_without_a_retain_model_the_order_is_that_of_the_input() -> None:
    asked = report(target=TARGET, b={"cloze": (None, 0.1)}, a={"cloze": (None, 0.2)})
    assert [row.name for row in Numbers(asked).models] == ["target", "b", "a"]


def test_the_numbers_can_be_read_by_other_programs(tmp_path: Path) -> None:
    render(report(target=TARGET, retain_model=GOLD), tmp_path)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 8
    assert (rows[0]["model"], rows[0]["metric"], rows[0]["value"]) == ("target", "accuracy", "0.900000")
    assert not (tmp_path / "summaries.csv").exists()


# --- names beside dots


def box(text: str, at: tuple[float, float]) -> Box:
    return at[0], at[1] - 4, at[0] + 4.5 * len(text), at[1] + 4


def apart(a: Box, b: Box) -> bool:
    return a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]


def test_thirty_crowded_names_cover_neither_each_other_nor_a_dot() -> None:
    draw = rng(0, "crowd")
    points = [(280 + 150 * draw.random(), 150 + 100 * draw.random()) for _ in range(30)]
    names = [(f"some_method_{n}", str(n)) for n in range(30)]
    labels = [label for label in position(points, names, (0, 0, 700, 400)) if label]
    assert len(labels) >= 25
    boxes = [box(label.text, (label.left, label.middle)) for label in labels]
    assert all(apart(a, b) for i, a in enumerate(boxes) for b in boxes[:i])
    dots = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    assert all(apart(label, dot) for label in boxes for dot in dots)


def test_a_name_without_room_gives_way_to_the_number_and_then_to_nothing() -> None:
    room = (0.0, 0.0, 40.0, 24.0)
    assert [label and label.text for label in position([(12.0, 12.0)], [("a_long_name", "7")], room)] == ["7"]
    assert position([(5.0, 5.0)], [("a_long_name", "7")], (0, 0, 10, 10)) == [None]


def test_a_lonely_dot_has_its_name_to_the_right_without_a_line() -> None:
    (label,) = position([(50.0, 50.0)], [("npo", "1")], (0, 0, 200, 100))
    assert label is not None and label == ("npo", 59.0, 50.0, False)
