"""`mllmu paper`: the page of a finished run, and a whole experiment on the embedded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.probed import ProbeShare
from mllmu.core.runfolder import RunFolder, seal
from mllmu.studies.paper.page import write_paper


def test_the_page_of_a_finished_run_says_what_it_can_and_cannot_tell(finished: Path, tmp_path: Path) -> None:
    """No unimodal beside multimodal methods: findings on them cannot be told, the others have numbers."""
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    page, found = write_paper(root, origin="Settings: mine.", bound=0.05)
    assert [bool(finding.measures) for finding in found] == [True, False, False, False, True, True, False, False]
    text = (root / "paper/findings.md").read_text(encoding="utf-8")
    assert "Settings: mine." in text and "people to forget: 2 (40 %)" in text
    assert text.count("cannot tell. This run does not compare them.") == 5
    assert "points of retain lost per point forgotten, over 4 models: " in text.lower()
    assert "Left out" not in text and "-0.0 " not in text
    shown = page.read_text(encoding="utf-8")
    assert "Not asked: MMMU, LLaVA-Bench" in shown and "Published" not in shown
    assert {path.stem for path in page.parent.glob("*.png")} == {"tradeoff_image_text", "tradeoff_text", "utilities"}
    assert not (page.parent / "paired.csv").exists()


def test_a_system_prompt_that_the_target_does_not_take_is_no_method_that_loses(finished: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    path = root / RunFolder.evaluation("40") / RunFolder.GATE_FILE
    kept = ProbeShare(right=10, num=24, low=0.24, high=0.61)
    path.write_text(json.dumps(seal({"probes": {"instructions": kept.model_dump()}})), encoding="utf-8")
    write_paper(root, origin="Settings: mine.", bound=0.05)
    text = (root / "paper/findings.md").read_text(encoding="utf-8")
    assert "Left out of what methods lose: prompting, as the target takes no system prompt." in text
    assert "points of retain lost per point forgotten, over 3 models: " in text.lower()


SHORT = (
    "data.source.num_people=6", "data.portraits.size=64", "data.train_wordings=1", "data.train_formats=[question]",
    "data.celebrities={name: celebrities, num_people: 6}", "finetune.epochs=0.2", "workers=1",
    "unlearn.methods=[{name: ga, epochs: 0.5, learning_rate: 0.01, modality: [image_text, text]}, prompting]",
    "evaluate.max_profiles={retain: 1, celebrity: 1, test: 0, holdout: 0}", "report.num_examples=0",
)  # fmt: skip


@pytest.mark.slow
def test_an_experiment_runs_on_the_embedded_model(tmp_path: Path) -> None:
    """Far too short to know anybody: what matters is that every finding has its sentence and every figure is there."""
    changes = [word for change in SHORT for word in ("--set", change)]
    out = tmp_path / "run"
    call = ["paper", "modalities", "--no-gate", "--no-check", "--out", str(out), *changes]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    text = (out / "paper/findings.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(lines) == 8 and all(": cannot tell. " in ln or "reproduced. " in ln for ln in lines)
    assert "Score of ga_text minus ga_image_text, with the image: " in text
    page = (out / "paper/index.html").read_text(encoding="utf-8")
    assert "Not asked: MMMU, LLaVA-Bench" in page and "Published" not in page
    plots = {path.stem for path in (out / "paper").glob("*.png")}
    assert plots == {"paired_37_5", "tradeoff_image_text", "tradeoff_text", "utilities"}
    assert len((out / "paper/paired.csv").read_text().splitlines()) == 1 + 3 * 2
