"""Where models stand: replies that cannot be read, few people, broken models, order, and names that cover nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from helpers_report import DECLARED, MAIN_METRIC

from mllmu.core.process import rng
from mllmu.core.records import MetricResult, TaskName
from mllmu.report import ModelRow, ReportInput, render, terminal_tables, tradeoff_rows
from mllmu.report.findings import findings
from mllmu.report.numbers import Interval, Numbers, TradeoffRow
from mllmu.report.scatter import Box, position
from mllmu.report.verdict import verdict

Levels = dict[TaskName, tuple[float | None, float]]


def report(people: int = 10, same: dict[str, float] | None = None, unread: int = 0, **models: Levels) -> ReportInput:
    """Asked with text; per model and task the forget and the retain score, None where nothing was judged.

    ``unread`` of 20 replies of unlearned models to multiple choice are: on forget the score without them is lower.
    """
    rows = [
        ModelRow(
            name=name, role=name if name in ("target", "retain_model") else "unlearned", method="m",  # type: ignore[arg-type]
            same_as_target={"text": share} if (share := (same or {}).get(name)) is not None else {},
        )
        for name in models
    ]  # fmt: skip
    results = [
        MetricResult(
            model=name, metric=MAIN_METRIC[task], split=split, task=task, modality="text", value=value,
            ci_low=None if value is None else value - 0.1, ci_high=None if value is None else value + 0.1,
            num=20 - lost, num_unparsed=lost, num_profiles=people, **_bounds(value, split, lost),
        )
        for name, levels in models.items()
        for task, pair in levels.items()
        for split, value in zip(("forget", "retain"), pair, strict=True)
        for lost in [unread if task == "classification" and name not in ("target", "retain_model") else 0]
    ]  # fmt: skip
    return ReportInput(title="t", models=tuple(rows), results=tuple(results), declared=DECLARED)


def _bounds(value: float | None, split: str, lost: int) -> dict[str, float]:
    if value is None or not lost:
        return {}
    known, wrong = (value * (20 - lost) + lost) / 20, value * (20 - lost) / 20
    worst, best = (known, wrong) if split == "forget" else (wrong, known)
    return {"worst": worst, "worst_low": worst - 0.1, "worst_high": worst + 0.1, "best": best}


def overall(asked: ReportInput) -> dict[str, TradeoffRow]:
    return {row.model.name: row for row in tradeoff_rows(asked) if row.task == "all"}


def sentences(asked: ReportInput) -> dict[str, str]:
    return {r.head: r.text for _, found in findings(Numbers(asked), tradeoff_rows(asked)) for r in found}


TARGET: Levels = {"classification": (0.9, 0.9), "cloze": (0.7, 0.8)}
GOLD: Levels = {"classification": (0.3, 0.9), "cloze": (0.1, 0.8)}
FAIR: Levels = {"classification": (0.4, 0.8), "cloze": (0.2, 0.7)}


def test_replies_that_cannot_be_read_count_against_the_model_and_in_brackets_for_it(tmp_path: Path) -> None:
    asked = report(target=TARGET, retain_model=GOLD, npo=FAIR, unread=15)
    row = overall(asked)["npo"]
    # 5 of 20 letters were read, 40 % of them right: 2 + 15 count as known of 20; cloze is 0.2
    assert row.forget is not None and row.utility is not None
    assert (row.forget.value, row.forget.best) == pytest.approx(((0.85 + 0.2) / 2, (0.1 + 0.2) / 2))
    # on retain 4 of 5 read letters are right: 4 of 20
    assert (row.utility.value, row.utility.best) == pytest.approx(((0.2 + 0.7) / 2, (0.95 + 0.7) / 2))
    assert row.drop == pytest.approx(0.8 - 0.525)
    page = render(asked, tmp_path).read_text(encoding="utf-8")
    assert "52.5 (15.0)" in page and "45.0 (82.5)" in page and "85.0 (10.0)" in page
    assert sentences(asked)["Not fully readable"].startswith("npo (forget 52.5 to 15.0, utility 45.0 to 82.5): ")
    lines = list(csv.DictReader((tmp_path / "tradeoff.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["forget_best"] for row in lines if row["model"] == "npo" and row["task"] == "all"] == ["0.150000"]
    cells = [list(column.cells) for column in terminal_tables(asked)[0].columns]
    assert cells[1] == ["80.0", "20.0", "52.5 (15.0)"]


def test_a_model_that_is_read_in_full_has_no_brackets(tmp_path: Path) -> None:
    asked = report(target=TARGET, retain_model=GOLD, npo=FAIR)
    assert overall(asked)["npo"].forget == Interval(pytest.approx(0.3), pytest.approx(0.2), pytest.approx(0.4))
    assert "Not fully readable" not in sentences(asked)
    assert "(30.0)" not in render(asked, tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("levels", "same", "fault"),
    [
        ({"classification": (0.3, 0.4), "cloze": (0.1, 0.4)}, 0.2, "destroyed"),
        ({"classification": (0.88, 0.9), "cloze": (0.7, 0.8)}, 0.6, "undertrained"),
        ({"classification": (0.95, 0.9), "cloze": (0.7, 0.8)}, 0.6, "undertrained"),
        ({"classification": (0.9, 0.9), "cloze": (0.7, 0.8)}, 1.0, "identical to the target in 100 % of responses"),
        ({"classification": (0.8, 0.9), "cloze": (0.6, 0.8)}, 0.949, "identical to the target in 94 % of responses"),
    ],
)
def test_what_is_broken_or_hardly_changed_is_named_and_not_on_the_front(
    levels: Levels, same: float, fault: str, tmp_path: Path
) -> None:
    asked = report(target=TARGET, retain_model=GOLD, npo=FAIR, bad=levels, same={"bad": same, "npo": 0.5})
    rows = overall(asked)
    assert (rows["bad"].faults, rows["bad"].on_front, rows["npo"].on_front) == ([fault], False, True)
    assert not rows["target"].faults and not rows["npo"].faults
    said = sentences(asked)
    assert said["Broken or hardly changed"].startswith(f"bad ({fault}). ")
    assert said["Closest to the retain model"].startswith("npo ends "), "destroying everything is no way to be close"
    assert "bad" not in said["Best trade-offs"]
    assert fault in render(asked, tmp_path).read_text(encoding="utf-8")
    table = csv.DictReader((tmp_path / "tradeoff.csv").read_text(encoding="utf-8").splitlines())
    assert [row["faults"] for row in table if row["model"] == "bad" and row["task"] == "all"] == [fault]


def test_a_broken_model_keeps_no_other_off_the_front() -> None:
    far: Levels = {"classification": (0.7, 0.8), "cloze": (0.5, 0.7)}
    asked = report(target=TARGET, retain_model=GOLD, npo=far, bad={"classification": (0.3, 0.4), "cloze": (0.1, 0.4)})
    assert [name for name, row in overall(asked).items() if row.on_front] == ["npo"]


@pytest.mark.parametrize(
    ("people", "head", "text"),
    [
        (1, "These people alone", "The forget set has 1 person. All numbers about it are about the questions on this"),
        (2, "These people alone", "The forget set has 2 people. All numbers about it are about the questions on these"),
        (3, "Few people", "The forget set has 3 people. The intervals take them as a sample of people like them"),
        (5, "Few people", "The forget set has 5 people."),
    ],
)
def test_the_page_says_what_numbers_of_few_people_are_about(people: int, head: str, text: str, tmp_path: Path) -> None:
    asked = report(people, target=TARGET, retain_model=GOLD, npo=FAIR)
    assert sentences(asked)[head].startswith(text)
    assert text.split(". ")[0] in render(asked, tmp_path).read_text(encoding="utf-8")
    assert not {"These people alone", "Few people"} & set(sentences(report(6, target=TARGET, npo=FAIR)))


def test_a_model_of_which_nothing_can_be_judged_stays_a_dash() -> None:
    nothing: Levels = {"classification": (None, 0.9), "cloze": (0.2, 0.6)}
    row = overall(report(target=TARGET, retain_model=GOLD, npo=nothing))["npo"]
    assert row.forget is None and row.drop is None and not row.plottable


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


def test_what_was_measured_has_no_upper_bound() -> None:
    row = ModelRow(name="x", role="unlearned", seconds=2e6, peak_mib=2e6, tokens_per_s=2e6, trainable=7_062_000_000)
    assert row.trainable == 7_062_000_000


def test_a_task_that_is_declared_to_be_in_no_mean_keeps_its_own_row_and_is_named(tmp_path: Path) -> None:
    asked = report(target=TARGET, retain_model=GOLD, npo=FAIR)
    tasks = {**DECLARED.tasks, "classification": DECLARED.tasks["classification"].model_copy(update={"in_mean": False})}
    apart = asked.model_copy(
        update={
            "declared": DECLARED.model_copy(update={"tasks": tasks}),
            "task_notes": {"classification": "This model does not read letters."},
        }
    )
    row, before = overall(apart)["npo"], overall(asked)["npo"]
    assert row.forget is not None and row.utility is not None and before.forget is not None
    assert (row.forget.value, row.utility.value, before.forget.value) == pytest.approx((0.2, 0.7, 0.3))  # cloze alone
    of_task = {r.task: r.forget.value for r in tradeoff_rows(apart) if r.model.name == "npo" and r.forget}
    assert of_task == pytest.approx({"all": 0.2, "classification": 0.4, "cloze": 0.2})
    page = render(apart, tmp_path).read_text(encoding="utf-8")
    assert "Means over the tasks without Classification, from 0 to 100" in page
    assert page.count("This model does not read letters.") == 1
    caption = str(terminal_tables(apart)[0].caption)
    assert "; without Classification" in caption and "without" not in str(terminal_tables(asked)[0].caption)


def test_what_a_system_prompt_costs_is_the_loss_of_a_target_that_takes_none() -> None:
    asked = report(
        target=TARGET, retain_model=GOLD, npo=FAIR, prompting={"classification": (0.3, 0.9), "cloze": (0, 0)}
    )
    why = "The target cannot take a system prompt: of 24 questions ..."
    rows = [row.model_copy(update={"of_target": why if row.name == "prompting" else ""}) for row in asked.models]
    burdened = asked.model_copy(update={"models": tuple(rows)})
    row = overall(burdened)["prompting"]
    assert row.faults[-1] == f"the target takes no system prompt: {why}" and not row.on_front
    assert not overall(asked)["prompting"].faults
    said = sentences(burdened)["Broken or hardly changed"]
    assert "The loss of prompting is the target's, not the method's." in said
    answer = verdict(Numbers(burdened), tradeoff_rows(burdened))
    assert answer is not None and answer.model == "npo"
    assert answer.sure.endswith("Not judged: prompting, as the target itself takes no system prompt.")
