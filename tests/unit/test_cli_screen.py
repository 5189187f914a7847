"""What long work shows: lines in a log, bars on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, Group
from rich.table import Table

from mllmu.cli.screen import ConsoleProgress, duration, figures, say


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def plain() -> tuple[ConsoleProgress, io.StringIO, Clock]:
    text, clock = io.StringIO(), Clock()
    return ConsoleProgress(Console(file=text, width=30), clock=clock), text, clock


def test_plain_progress_says_start_and_end_and_between_at_most_one_line_per_ten_seconds() -> None:
    progress, text, clock = plain()
    progress.stage("finetune", "target")
    progress.start("teaching", 100)
    for _ in range(50):
        clock.now += 0.5
        progress.advance(2, loss=0.5)
    progress.finish()
    assert text.getvalue().splitlines() == [
        "finetune: target",
        "  teaching: 0 of 100",
        "  teaching: 40 of 100, about 15 s left, loss 0.5",
        "  teaching: 80 of 100, about 5 s left, loss 0.5",
        "  teaching: 100 in 25 s, loss 0.5",
    ]


def test_next_task_ends_the_one_before_and_an_unfinished_one_shows_its_count() -> None:
    progress, text, _ = plain()
    progress.start("one", 3)
    progress.advance()
    progress.start("two", 0)
    progress.finish()
    progress.finish()
    assert text.getvalue().splitlines() == ["  one: 0 of 3", "  one: 1 of 3 in 0 s", "  two: 0 of 0", "  two: 0 in 0 s"]


def test_closing_early_claims_no_end() -> None:
    progress, text, _ = plain()
    progress.start("one", 3)
    progress.close()
    progress.finish()
    progress.advance()
    assert text.getvalue() == "  one: 0 of 3\n"


def test_markup_in_labels_is_shown_as_it_is() -> None:
    progress, text, _ = plain()
    progress.stage("data", "[/red] [bold]x")
    progress.note("[/y]")
    assert text.getvalue() == "data: [/red] [bold]x\n  [/y]\n"


def test_rich_progress_shows_bar_count_and_figures_and_gives_the_cursor_back() -> None:
    text, clock = io.StringIO(), Clock()
    console = Console(file=text, force_terminal=True, width=100, color_system=None, _environ={"TERM": "xterm"})
    progress = ConsoleProgress(console, clock=clock)
    progress.stage("unlearn", "[/red] npo")
    progress.start("[/red] steps", 4)
    progress.advance(3, loss=0.25)
    progress.bars.refresh()
    assert "[/red] steps" in text.getvalue() and "3/4" in text.getvalue() and "loss 0.25" in text.getvalue()
    clock.now += 70
    progress.advance()
    progress.finish()
    progress.start("again", 1)
    progress.close()
    progress.close()
    shown = text.getvalue()
    assert "unlearn  [/red] npo" in shown and "  [/red] steps: 4 in 1 min 10 s, loss 0.25" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (75, "1 min 15 s"), (3600, "1 h 00 min"), (90061, "25 h 01 min")],
)
def test_duration_has_the_two_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_figures_have_three_significant_digits_and_survive_not_a_number() -> None:
    assert figures({"loss": 12.3456, "lr": 0.00002, "bad": float("nan")}) == ["loss 12.3", "lr 2e-05", "bad nan"]


@pytest.mark.parametrize("width", [60, 70, 80, 150])
def test_a_table_drops_columns_before_it_breaks_a_name_or_a_number(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = Table("model", "forget", "test", "retain", "celebrity", title="4 of 16 people forgotten")
    for name in ("retain_model", "a_method_of_my_own_image_text"):
        table.add_row(name, *["38.8 (18.8) / 36.6 (26.6)"] * 4)
    say(Group(table, "the end"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width and lines[-1] == "the end"
    told = [line for line in lines if "a_method_of_my_own_image_text" in line]
    assert len(told) == 1 and "38.8 (18.8) / 36.6 (26.6)" in told[0]
    assert (width < 150) == any("no room for:" in line and "celebrity" in line for line in lines)
