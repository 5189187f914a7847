"""The benchmark of a GPU runs to its end on a CPU, on a model of no use but to try it."""

import json
from pathlib import Path

import pytest

from benchmarks.gpu import main


@pytest.mark.slow
def test_every_phase_gives_rows_and_the_files_hold_them(tmp_path: Path) -> None:
    phases = ["card", "switch", "train", "evaluate", "methods"]
    rows = main(["--shape", "tiny", "--phases", *phases, "--out", str(tmp_path), "--profile"])
    assert not [row for row in rows if "failed" in row]
    assert list(dict.fromkeys(row["phase"] for row in rows)) == phases
    (raw,) = tmp_path.glob("gpu_*.json")
    assert json.loads(raw.read_text(encoding="utf-8"))["rows"] == rows
    text = raw.with_suffix(".md").read_text(encoding="utf-8")
    assert all(f"## {phase}" in text for phase in phases)
    trained = {(row["way"], row["questions a step"]): row for row in rows if row["phase"] == "train"}
    assert trained["published", 4]["s_a_step"] > 0
    assert trained["engine, 4 people", 60]["tokens a step"] > trained["engine, one person", 15]["tokens a step"]
    assert all(0 < row["share of matmul"] < 1 for row in trained.values())
    asked = [row for row in rows if row["phase"] == "evaluate" and row["way"] == "engine"]
    assert {row["protocol"] for row in asked} == {"zero-shot", "published"}
    assert all(row["new tokens a s"] > 0 for row in asked)
    assert (tmp_path / "profile_train.txt").stat().st_size > 1000


def test_a_phase_without_time_is_named_and_left_out(tmp_path: Path) -> None:
    rows = main(["--shape", "tiny", "--phases", "card", "--minutes", "0", "--out", str(tmp_path)])
    assert [row["phase"] for row in rows] == ["card"]
    assert "left out" in rows[0]
