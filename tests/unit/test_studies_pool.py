"""Pooling runs: means by hand, paired draws, fronts, and clear errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import DataError
from mllmu.core.records import Sample, Score
from mllmu.core.runfolder import dump_lines
from mllmu.studies.pool import pool

SETS = {"forget": ("f1", "f2", "f3"), "retain": ("r1", "r2"), "celebrity": ("c1",)}
METRIC = {"classification": "accuracy", "cloze": "cloze_contains"}


def make_run(root: Path, known: dict[str, dict[str, float]]) -> Path:
    """A scored run: by model and set, the score of every question there."""
    samples = [
        Sample(
            id=f"{split}/{person}/{task}",
            question_id=f"{person}/{task}",
            profile_id=person,
            split=split,  # type: ignore[arg-type]
            task=task,  # type: ignore[arg-type]
            modality="text",
            attribute="pet",
            prompt="?",
            target="A",
            value="cat",
            max_new_tokens=1,
        )
        for split, people in SETS.items()
        for person in people
        for task in METRIC
    ]
    folder = root / "eval/forget_10"
    for model, by_set in known.items():
        scores = [Score(sample_id=s.id, metric=METRIC[s.task], value=by_set[s.split]) for s in samples]
        scores += [Score(sample_id=s.id, metric="refused", value=1.0) for s in samples]
        (folder / model / "scores").mkdir(parents=True)
        (folder / model / "scores/scores.jsonl").write_text(dump_lines(scores))
    (folder / "samples.jsonl").write_text(dump_lines(samples))
    return root


def sets(forget: float, retain: float, celebrity: float) -> dict[str, float]:
    return {"forget": forget, "retain": retain, "celebrity": celebrity}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    first = {
        "target": sets(1.0, 1.0, 0.8),
        "retain_model": sets(0.2, 1.0, 0.8),
        "good": sets(0.2, 0.9, 0.8),
        "bad": sets(0.6, 0.5, 0.5),
    }
    second = {
        "target": sets(0.8, 1.0, 0.8),
        "retain_model": sets(0.2, 1.0, 0.8),
        "good": sets(0.3, 0.9, 0.8),
        "bad": sets(0.6, 0.5, 0.5),
        "only_here": sets(0.0, 1.0, 1.0),
    }
    return [make_run(tmp_path / "a", first), make_run(tmp_path / "b", second)]


def test_means_differences_and_fronts(runs: list[Path]) -> None:
    rows = {row.model: row for row in pool(runs, "10")}
    assert set(rows) == {"target", "retain_model", "good", "bad"}
    good = rows["good"]
    assert good.forget.value == pytest.approx(0.25)
    assert good.surplus.value == pytest.approx(0.05)
    assert good.utility.value == pytest.approx(0.85)
    assert good.cost.value == pytest.approx(0.05)
    assert (good.forget.low, good.forget.high) == pytest.approx((0.2, 0.3)), "both draws of one run alone"
    assert (good.front, rows["bad"].front, rows["target"].front) == (1.0, 0.0, None)
    assert [row.model for row in pool(runs, "10")] == ["retain_model", "target", "good", "bad"]


def test_the_interval_is_that_of_people_drawn_anew(tmp_path: Path) -> None:
    root = make_run(tmp_path / "a", {name: sets(1.0, 1.0, 1.0) for name in ("target", "retain_model", "half")})
    path = root / "eval/forget_10/half/scores/scores.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line.replace("1.0", "0.0") if "/f1/" in line else line for line in lines))
    half = next(row for row in pool([root], "10") if row.model == "half")
    assert half.forget.value == pytest.approx(2 / 3)
    # of 27 equally likely draws of three people 1 has f1 thrice (score 0) and 8 have f1 never (score 1)
    assert (half.forget.low, half.forget.high) == pytest.approx((0.0, 1.0))
    assert half.surplus.value == pytest.approx(-1 / 3)


def test_runs_that_do_not_go_together_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scores"):
        pool(runs, "5")
    other = make_run(tmp_path / "c", {"target": sets(1, 1, 1), "retain_model": sets(0, 1, 1), "npo": sets(0, 1, 1)})
    with pytest.raises(DataError, match="no unlearned model is in all"):
        pool([runs[0], other], "10")


def test_the_command_prints_and_writes_a_table(runs: list[Path], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pool", *map(str, runs), "--out", str(tmp_path / "table.md")])
    assert done.exit_code == 0, done.output
    assert "| good | 25.0 (20.0 to 30.0) | 5.0 (0.0 to 10.0) |" in (tmp_path / "table.md").read_text()
    assert "over 2 runs" in done.output
    empty = CliRunner().invoke(app, ["pool", str(tmp_path)])
    assert empty.exit_code == 2
    assert "holds no evaluation" in empty.output
