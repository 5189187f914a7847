"""A run folder copied to another place with its recipe goes on there: files are known by content, not by place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mini_run
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.core.errors import RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.pipeline.data import data_unit
from mllmu.pipeline.run import Run

SMALL = ("unlearn.methods=[prompting]", "evaluate.tasks=[cloze]", "evaluate.modalities=[text]", "finetune.epochs=1")


def mllmu(*words: str) -> str:
    """A command in this process, which must succeed: what it says."""
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_a_run_goes_on_where_it_was_copied_to_and_makes_nothing_again(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "ids.json").write_text(json.dumps({"asked": ["002", "004"]}))
    listed = (f"data.splits.file={here / 'ids.json'}", "data.splits.keys=[asked]")
    mini_run.write_recipe(here / "mini.yaml", base, *listed, *SMALL)
    monkeypatch.chdir(here)
    mllmu("run", "mini.yaml", "--out", "runs/mini", "--no-check")
    made = mini_run.unit_times(here / "runs/mini")
    shutil.copytree(here, there)
    recipe = yaml.safe_load((there / "mini.yaml").read_text())
    recipe["data"]["splits"]["file"] = "ids.json"  # relative to the recipe
    (there / "mini.yaml").write_text(yaml.safe_dump(recipe))
    for original in (here, tmp_path / "gone"):
        if not original.exists():
            here.rename(original)
        monkeypatch.chdir(there)
        mllmu("run", "mini.yaml", "--out", "runs/mini", "--no-check")
        assert mini_run.unit_times(there / "runs/mini") == made
        assert "done" in mllmu("status", "runs/mini")
        assert "report" in mllmu("report", "runs/mini")
        assert "OK" in mllmu("verify", "runs/mini")
        assert mini_run.unit_times(there / "runs/mini") == made
    (there / "ids.json").write_text(json.dumps({"asked": ["001", "003"]}))
    failed = CliRunner().invoke(app, ["run", "mini.yaml", "--out", "runs/mini", "--no-check"])
    assert failed.exit_code == 2 and mini_run.unit_times(there / "runs/mini") == made


def project(folder: Path) -> Path:
    """A recipe with a table of people, a folder of portraits, a list of ids, and data that are made."""
    folder.mkdir()
    rows = ["name,residence,pet", *(f"Person {n},Riga,cat {n}" for n in range(6))]
    (folder / "people.csv").write_text("\n".join(rows) + "\n")
    (folder / "faces").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "faces/001.png")
    (folder / "ids.json").write_text('{"a": ["001"]}')
    source = {"name": "people", "path": "@/people.csv", "images": "@/faces", "key": "@/key.json"}
    splits = {"file": "@/ids.json", "keys": ["a"], "forget_ratios": [0.2]}
    (folder / "r.yaml").write_text(yaml.safe_dump({"name": "x", "data": {"source": source, "splits": splits}}))
    with data_unit(run_in(folder)).making():
        return folder


def run_in(folder: Path) -> Run:
    recipe = yaml.safe_load((folder / "r.yaml").read_text().replace("@", str(folder)))
    return Run(parse(recipe), folder / "run", SilentProgress())


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda folder: folder.exists(), True),
        (lambda folder: (folder / "people.csv").unlink(), True),
        (lambda folder: shutil.rmtree(folder / "faces"), True),
        (lambda folder: (folder / "people.csv").write_text("name\nSomebody Else\n"), False),
        (lambda folder: Image.new("RGB", (40, 40), "red").save(folder / "faces/001.png"), False),
        (lambda folder: Image.new("RGB", (40, 40)).save(folder / "faces/002.png"), False),
        (lambda folder: (folder / "ids.json").write_text('{"a": ["002"]}'), False),
        (lambda folder: (folder / "r.yaml").write_text((folder / "r.yaml").read_text() + "seed: 3\n"), False),
        (
            lambda folder: (folder / "r.yaml").write_text((folder / "r.yaml").read_text().replace("ids.", "other.")),
            False,
        ),
    ],
)
@pytest.mark.parametrize("kept", [True, False])
def test_moved_files_are_the_same_by_content_and_missing_ones_by_name(
    change: object, same: bool, kept: bool, tmp_path: Path
) -> None:
    first = project(tmp_path / "first")
    there = tmp_path / "there"
    shutil.copytree(first, there)
    if not kept:
        first.rename(tmp_path / "moved away")
    (there / "other.json").write_text('{"a": ["001", "002"]}')
    change(there)  # type: ignore[operator]
    if same:
        assert data_unit(run_in(there)).done
    else:
        with pytest.raises(RunStoreError, match="data"):
            data_unit(run_in(there))


def test_two_files_that_changed_places_are_other_files(tmp_path: Path) -> None:
    folder = project(tmp_path / "first")
    for name in ("people.csv", "ids.json"):
        (folder / name).rename(folder / f"{name}.old")
    (folder / "people.csv.old").rename(folder / "ids.json")
    (folder / "ids.json.old").rename(folder / "people.csv")
    with pytest.raises(RunStoreError):
        data_unit(run_in(folder))
