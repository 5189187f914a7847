"""A run is verified from its own files; what was changed, even with its digests, is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import load
from mllmu.core.errors import RunStoreError
from mllmu.core.lock import held
from mllmu.core.manifest import MANIFEST, check_manifest, write_manifest
from mllmu.core.process import SilentProgress
from mllmu.core.runfolder import file_digests, read_json, seal
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.run import Run
from mllmu.studies.verify import ask_again, first_difference, verify_run

SCORES = "eval/forget_40/npo/scores"
RESPONSES = "eval/forget_40/npo/responses"


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run with a manifest."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    write_manifest(folder)
    return folder


def verified(root: Path, **how: bool) -> list[str]:
    return list(verify_run(root, SilentProgress(), **how))


def forge(root: Path, unit: str, name: str, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the lines of a file of a unit, and all digests that would tell."""
    path = root / unit / name
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    edit(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    record = read_json(root / unit / "unit.json")
    (root / unit / "unit.json").write_text(json.dumps(seal(record | {"files": file_digests(root / unit)})))
    write_manifest(root)


def forge_record(root: Path, name: str, edit: Callable[[dict[str, Any]], None]) -> None:
    record = read_json(root / name, sealed=True)
    edit(record)
    (root / name).write_text(json.dumps(seal(record)), encoding="utf-8")
    write_manifest(root)


def test_a_run_that_nobody_touched_is_ok_without_a_model(
    root: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_model(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("mllmu.pipeline.run.load", no_model)
    shutil.rmtree(root / "report")
    with pytest.raises(RunStoreError, match=r"report/.*it is gone"):
        verified(root)
    write_manifest(root)
    said = verified(root)
    assert len(said) == 2 and "manifest" in said[0] and "every number of metrics.json" in said[1]
    (root / "note.txt").write_text("mine")
    assert "1 were added since, the first is note.txt" in verified(root)[0]


@pytest.mark.parametrize(
    "name", ["metrics.json", "samples.jsonl", "npo/responses/responses.jsonl", "npo/scores/unit.json"]
)
def test_a_changed_file_is_named(root: Path, name: str) -> None:
    path = root / "eval/forget_40" / name
    content = path.read_bytes()
    path.write_bytes(content.replace(b"1", b"2", 1))
    with pytest.raises(RunStoreError, match=name.rpartition("/")[2]):
        verified(root)
    path.unlink()
    with pytest.raises(RunStoreError, match=r"gone|not there|no such"):
        verified(root)


def test_a_file_put_into_a_finished_unit_is_named(root: Path) -> None:
    (root / RESPONSES / "more.jsonl").write_text("{}\n")
    with pytest.raises(RunStoreError, match=r"more\.jsonl: it was not there"):
        verified(root)


def test_a_reply_changed_with_all_its_digests_gives_another_score(root: Path) -> None:
    def other(lines: list[dict[str, Any]]) -> None:
        answered = next(line for line in lines if "generation" in line["sample_id"])
        answered["candidates"]["target"]["logp"] -= 1

    forge(root, RESPONSES, "responses.jsonl", other)
    with pytest.raises(RunStoreError, match=r"scores\.jsonl: .* is stored, computed again it is"):
        verified(root)


def test_a_score_or_a_number_changed_with_all_its_digests_is_named(root: Path) -> None:
    shutil.copytree(root, twin := root.with_name("twin"))
    forge(root, SCORES, "scores.jsonl", lambda lines: lines[0].update(value=0.875))
    with pytest.raises(RunStoreError, match=r"value: 0\.875 is stored"):
        verified(root)
    forge_record(twin, "eval/forget_40/metrics.json", lambda record: record["results"][3].update(value=0.875))
    with pytest.raises(RunStoreError, match=r"results\.3\.value: 0\.875 is stored"):
        verified(twin)
    forge_record(twin, "eval/forget_40/metrics.json", lambda record: record["results"].pop())
    with pytest.raises(RunStoreError, match=r"results: "):
        verified(twin)


def test_other_samples_and_other_models_than_were_asked_are_named(root: Path) -> None:
    shutil.copytree(root, twin := root.with_name("twin"))
    path = root / "eval/forget_40/samples.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("?", "!", 1), encoding="utf-8")
    write_manifest(root)
    with pytest.raises(RunStoreError, match="not what the models were asked"):
        verified(root)
    forge_record(twin, "models/forget_40/npo/unit.json", lambda record: record.update(fingerprint="0" * 16))
    with pytest.raises(RunStoreError, match="of another model"):
        verified(twin)


def test_asking_again_gives_the_same_replies_and_finds_another_model(root: Path) -> None:
    said = verified(root, ask=True)
    assert "models asked again" in said[-1] and "the same replies" in said[-1]

    def other(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            line["text"] += " of course"

    forge(root, RESPONSES, "responses.jsonl", other)
    run = Run(load(root / "recipe.yaml"), root, SilentProgress())
    with pytest.raises(RunStoreError, match=r"npo: \d+ of \d+ questions .* get another reply"):
        ask_again(Evaluation(run, "40"), seed=1)


def test_a_command_takes_the_manifest_away_and_leaves_a_new_one(root: Path) -> None:
    before = read_json(root / MANIFEST, sealed=True)
    with held(root):
        assert not (root / MANIFEST).exists()
        (root / "gate.txt").write_text("x")
    after = read_json(root / MANIFEST, sealed=True)
    assert set(after["files"]) - set(before["files"]) == {"gate.txt"}
    assert check_manifest(root).differences == {}
    (root / MANIFEST).unlink()
    assert "no manifest" in verified(root)[0]


def test_the_command_prints_ok_or_the_first_difference(root: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["verify", str(root)])
    assert done.exit_code == 0 and done.stdout.endswith(f"OK: {root}\n")
    (root / RESPONSES / "responses.jsonl").write_text("")
    failed = CliRunner().invoke(app, ["verify", str(root)])
    assert failed.exit_code == 2 and "responses.jsonl: its content has changed" in failed.stderr
    empty = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert empty.exit_code == 2 and "no run folder" in empty.stderr


def test_the_first_difference_names_its_place() -> None:
    assert first_difference({"a": 1}, {"a": 1, "b": 2}) == "b: None is stored, computed again it is 2"
    assert first_difference([1, 2], [1]) == "value: [1, 2] is stored, computed again it is [1]"
