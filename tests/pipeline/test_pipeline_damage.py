"""Nothing of a finished run is lost, and no damage of it goes unnoticed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mini_run import fingerprints, run, settings

from mllmu.config.load import parse
from mllmu.core.errors import MllmuError, ModelError, RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.run import Run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished run to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_force_with_a_model_that_cannot_be_loaded_keeps_everything(base: Path, copy: Path) -> None:
    before = fingerprints(copy, "[!r]*/**/*") | fingerprints(copy, "recipe.yaml")
    with pytest.raises(ModelError):
        run(base, copy, "model.path=/no/such/model", only="finetune", force=True)
    after = fingerprints(copy, "[!r]*/**/*") | fingerprints(copy, "recipe.yaml")
    assert {name: after.get(name) for name in before} == before
    run(base, copy, only="score")


def test_a_finished_run_whose_files_moved_is_scored_and_reported(base: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps({"forget_40": ["001", "002"]}))
    recipe = parse(settings(base, f"data.splits={{forget_ratios: [0.4], file: {ids}, keys: [forget_40]}}"))
    Pipeline(recipe, tmp_path / "run").run("data")
    ids.rename(tmp_path / "moved.json")
    notes: list[str] = []

    class Watcher(SilentProgress):
        def note(self, text: str) -> None:
            notes.append(text)

    Pipeline(recipe, tmp_path / "run", progress=Watcher()).run("data")
    assert notes == [f"{ids}: is gone; the data that were made from it are used"]
    with pytest.raises(MllmuError, match=r"ids\.json: no such file"):
        Pipeline(recipe, tmp_path / "run", force=True).run("data")
    Pipeline(recipe, tmp_path / "run").run("data")
    ids.write_text(json.dumps({"forget_40": ["002", "003"]}))
    with pytest.raises(RunStoreError, match="was made with other settings: files"):
        Pipeline(recipe, tmp_path / "run").run("data")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("data/questions.jsonl", b"\n", b" "),
        ("data/splits.json", b"\n", b" "),
        ("eval/forget_40/npo/responses/responses.jsonl", b'"text":"', b'"text":"x'),
        ("eval/forget_40/npo/scores/scores.jsonl", b"value", b"valve"),
    ],
)
def test_a_changed_file_of_a_finished_run_is_named(name: str, old: bytes, new: bytes, base: Path, copy: Path) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(RunStoreError, match=rf"{name}: damaged \(its content has changed"):
        run(base, copy, only="report")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "model.json"])
def test_a_changed_model_is_named_before_it_is_loaded(name: str, base: Path, copy: Path) -> None:
    path = copy / "models/target" / name
    state = Run(parse(settings(base)), copy, SilentProgress())
    state.load(state.ref("40", "target"))
    flipped = bytearray(path.read_bytes())
    flipped[-9] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(RunStoreError, match=rf"{name}: damaged"):
        state.load(state.ref("40", "target"))


@pytest.mark.parametrize("content", ["", "null", "[]", "3", '{"results": 1}'])
@pytest.mark.parametrize("name", ["models/target/curve.json", "data/splits.json", "run.json"])
def test_records_that_are_emptied_or_of_another_type_are_one_error(
    name: str, content: str, base: Path, copy: Path
) -> None:
    (copy / name).write_text(content)
    if (name, content) == ("run.json", '{"results": 1}'):
        run(base, copy, only="report")  # an object without a digest, as an earlier version wrote it
    else:
        with pytest.raises(RunStoreError, match=rf"{name}: damaged .* Move .* away and repeat the command"):
            run(base, copy, only="report")


@pytest.mark.parametrize("number", [0, 10_000])
def test_more_examples_than_there_are_end_with_all_of_them(number: int, base: Path, copy: Path) -> None:
    run(base, copy, f"report.num_examples={number}", only="report")
    assert (copy / "report/index.html").is_file()


@pytest.mark.parametrize(
    "more",
    [
        "evaluate.max_profiles={forget: 10000, test: 10000, retain: 10000, celebrity: 10000, holdout: 10000}",
        "evaluate.protocol={name: official, shots: {classification: 10000, cloze: 10000}}",
        "evaluate.protocol={name: official, test_image: 10000}",
    ],
)
def test_more_people_or_shots_than_there_are_end_in_all_or_in_an_error(more: str, base: Path, finished: Path) -> None:
    state = Run(parse(settings(base, more)), finished, SilentProgress())
    try:
        assert Evaluation(state, "40").render()
    except MllmuError as error:
        assert str(error)


@pytest.mark.parametrize("more", ["data.celebrities.num_people=10000", "data.train_wordings=10000"])
def test_more_celebrities_or_wordings_than_there_are_end(more: str, base: Path, tmp_path: Path) -> None:
    try:
        run(base, tmp_path / "run", more, "data.portraits.size=16", only="data")
    except MllmuError as error:
        assert str(error)


def test_a_run_goes_on_with_the_threads_it_began_with(base: Path, tmp_path: Path) -> None:
    import torch

    root = tmp_path / "run"
    run(base, root, only="data")
    record = json.loads((root / "run.json").read_text())
    assert record["hardware"]["threads"] == torch.get_num_threads() == 1, "a small model"
    del record["record_digest"]
    record["hardware"]["threads"] = 2
    (root / "run.json").write_text(json.dumps(record))
    try:
        run(base, root, only="data")
        assert torch.get_num_threads() == json.loads((root / "run.json").read_text())["hardware"]["threads"] == 2
    finally:
        torch.set_num_threads(1)
