"""A grid of two base models: one run folder each, the same numbers as alone, one page for both."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from mini_run import fingerprints, run, settings, unit_times
from typer.testing import CliRunner

from mllmu.cli.app import app

SMALL = (
    "unlearn.methods=[prompting]", "finetune.epochs=1", "data.celebrities=null", "evaluate.tasks=[classification]",
    "evaluate.modalities=[text]", "evaluate.max_profiles={forget: 1, test: 0, retain: 1, holdout: 0}",
)  # fmt: skip


def test_a_grid_runs_every_model_in_its_own_folder_and_links_the_reports(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bases = [shutil.copytree(base, tmp_path / name) for name in ("one", "two")]
    raw = settings(base, *SMALL)
    del raw["model"]["path"]
    raw["grid"] = {"model.path": [str(place) for place in bases]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(raw))
    done = CliRunner().invoke(app, ["run", "grid.yaml"])
    assert done.exit_code == 0, done.output
    root = tmp_path / "runs" / "mini"
    page = (root / "index.html").read_text()
    for name in ("one", "two"):
        assert (root / name / "report" / "index.html").is_file()
        assert f'href="{name}/report/index.html"' in page
    alone = run(bases[0], tmp_path / "alone", *SMALL, only="score")
    numbers = fingerprints(alone, "eval/*/metrics.json")
    assert numbers and fingerprints(root / "one", "eval/*/metrics.json") == numbers

    before = unit_times(root)
    again = CliRunner().invoke(app, ["run", "grid.yaml", "--only", "evaluate", "--set", f"model.path={bases[1]}"])
    assert again.exit_code == 0, again.output
    assert unit_times(root) == before, "nothing is done twice, and one model of the grid has its old folder"
