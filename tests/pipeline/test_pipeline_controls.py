"""A run with ``evaluate.controls`` asks every model again, and its gate asks the target in any case."""

from __future__ import annotations

import json
from pathlib import Path

import mini_run
import pytest

from mllmu.core.runfolder import read_json


@pytest.fixture(scope="module")
def controlled(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with controls, whose own protocol shows examples for blanks; do not write into it."""
    settings = ("evaluate.controls=true", "evaluate.protocol.shots={cloze: 1}", "unlearn.methods=[prompting]")
    return mini_run.run(base, tmp_path_factory.mktemp("controls") / "run", *settings)


def responses(folder: Path, model: str) -> list[str]:
    lines = (folder / model / "responses" / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["sample_id"] for line in lines]


def test_the_gate_asks_the_target_alone_and_only_what_the_evaluation_did_not(finished: Path) -> None:
    gated = read_json(finished / "eval/forget_40/gate.json", sealed=True)
    assert {row["model"] for row in gated["controls"]} == {"target"}
    assert {row["control"] for row in gated["controls"]} == {
        "no_picture",
        "other_picture",
        "other_name",
        "options_only",
    }
    folder = finished / "controls/forget_40"
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["target"]
    asked = responses(folder, "target")
    assert asked and all(name.startswith("forget/") and "@" in name for name in asked)


def test_every_model_is_asked_about_the_people_to_forget_and_to_retain(controlled: Path) -> None:
    found = read_json(controlled / "controls/forget_40/controls.json", sealed=True)
    places = {(row["model"], row["split"]) for row in found["rows"]}
    assert places == {(m, s) for m in ("target", "retain_model", "prompting") for s in ("forget", "retain")}
    assert {row["split"] for row in found["orders"]} == {"forget", "retain"}


def test_what_the_run_asks_with_examples_is_asked_again_without(controlled: Path) -> None:
    asked = responses(controlled / "controls/forget_40", "target")
    plain = {name for name in asked if "@" not in name}
    assert plain == {name.partition("@")[0] for name in asked if ".cloze." in name}


def test_the_report_shows_what_is_known_beyond_the_controls(controlled: Path) -> None:
    page = (controlled / "report/index.html").read_text(encoding="utf-8")
    assert 'id="controls"' in page and "another person&#39;s picture" in page
    assert "Multiple choice in two orders of the options" in page


def test_no_section_without_controls(finished: Path) -> None:
    assert 'id="controls"' not in (finished / "report/index.html").read_text(encoding="utf-8")
