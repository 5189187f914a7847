"""One run under several protocols: what is asked again, what is only read again, and the table."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from mini_run import fingerprints, run

COMPARED = (
    "evaluate.compare={official: {name: official, max_new_tokens: 3}, letter: {parser: first_char}, shots: {shots: 1}}"
)
SMALL = (
    "unlearn.methods=[ga]",
    "evaluate.max_profiles={forget: 2, test: 0, retain: 1, celebrity: 0, holdout: 0}",
    "evaluate.tasks=[classification, cloze]",
)
RESPONSES = "eval/*/*/responses/responses.jsonl"


@pytest.fixture(scope="module")
def compared(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(base, tmp_path_factory.mktemp("compared"), *SMALL, COMPARED)


def test_a_protocol_that_puts_the_same_prompts_is_not_asked_again(compared: Path) -> None:
    assert sorted(path.name for path in (compared / "protocols").iterdir()) == ["official", "shots"]
    asked = sorted(path.parent.name for path in (compared / "protocols" / "official").rglob("responses"))
    assert asked == ["ga", "retain_model", "target"]


def test_the_table_has_every_protocol_model_and_set(compared: Path) -> None:
    text = (compared / "report" / "protocols.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    labels = [row[0].removeprefix("| ") for row in rows]
    assert labels == ["protocol", "this run", "official", "letter", "shots"] * 2
    assert rows[0][1:3] == ["target: forget", "target: retain"]
    with (compared / "report" / "protocols.csv").open(encoding="utf-8", newline="") as file:
        numbers = list(csv.DictReader(file))
    metric = {(n["protocol"], n["task"]): n["metric"] for n in numbers}
    assert metric["this run", "classification"] == metric["shots", "classification"] == "accuracy"
    assert metric["official", "classification"] == metric["letter", "classification"] == "accuracy_first_char"
    counts = {(n["protocol"], n["split"]): int(n["num"]) for n in numbers if n["task"] == "classification"}
    assert counts["letter", "forget"] > counts["official", "forget"] > 0, "example people are not asked"
    assert not any(int(n["num_unparsed"]) for n in numbers if n["protocol"] == "letter")


def test_the_numbers_of_the_run_itself_do_not_depend_on_the_comparison(compared: Path, base: Path) -> None:
    before = fingerprints(compared, "eval/*/metrics.json") | fingerprints(compared, RESPONSES)
    run(base, compared, *SMALL)
    assert fingerprints(compared, "eval/*/metrics.json") | fingerprints(compared, RESPONSES) == before


def test_the_official_protocol_can_be_the_one_of_the_run(base: Path, compared: Path, tmp_path: Path) -> None:
    root = shutil.copytree(compared, tmp_path / "run")
    shutil.rmtree(root / "eval")
    shutil.rmtree(root / "controls")
    run(base, root, *SMALL, "evaluate.protocol={name: official, max_new_tokens: 3}")
    page = (root / "report" / "index.html").read_text(encoding="utf-8")
    assert "Asked under the protocol" in page
    same = "forget_40/target/responses/responses.jsonl"
    assert (root / "eval" / same).read_bytes() == (compared / "protocols" / "official" / same).read_bytes()
