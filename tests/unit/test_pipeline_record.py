"""What a run leaves behind about itself: the recipe, how it ended, and with what it was made."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mllmu.config.load import load, parse
from mllmu.core.content import content_digest
from mllmu.core.errors import DataError, RunStoreError
from mllmu.core.process import SilentProgress
from mllmu.core.runfolder import ELAPSED_FILE, RunStore, write_json
from mllmu.pipeline import record
from mllmu.pipeline.data import data_unit
from mllmu.pipeline.record import installed, recorded, seconds_by_stage
from mllmu.pipeline.run import Run
from mllmu.training.loop import Schedule, Training, train


def run_in(root: Path, **settings: Any) -> Run:
    return Run(parse({"name": "mini", **settings}), root, SilentProgress())


def status(root: Path) -> str:
    return str(json.loads((root / "run.json").read_text())["status"])


def test_the_recipe_is_there_first_with_all_defaults(tmp_path: Path) -> None:
    run = run_in(tmp_path, seed=7)
    with recorded(run):
        assert load(tmp_path / "recipe.yaml") == run.recipe
        assert yaml.safe_load((tmp_path / "recipe.yaml").read_text())["finetune"]["lora"]["rank"] == 16
        assert status(tmp_path) == "running"
    assert status(tmp_path) == "done"


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt, "interrupted"), (DataError, "failed"), (KeyError, "failed")]
)
def test_the_end_is_recorded_whatever_it_is(error: type[BaseException], expected: str, tmp_path: Path) -> None:
    with pytest.raises(error), recorded(run_in(tmp_path)):
        raise error
    assert status(tmp_path) == expected


def test_a_folder_of_another_recipe_keeps_its_own(tmp_path: Path) -> None:
    with recorded(run_in(tmp_path, seed=1)):
        pass
    with pytest.raises(RunStoreError), recorded(run_in(tmp_path, seed=2)):
        raise RunStoreError("was made with other settings")
    assert load(tmp_path / "recipe.yaml").seed == 1
    with pytest.raises(DataError), recorded(run_in(tmp_path, seed=2)):
        raise DataError("no such file")
    assert load(tmp_path / "recipe.yaml").seed == 1, "nothing in the folder was made with the other one"
    with pytest.raises(DataError), recorded(run_in(tmp_path, seed=2)):
        RunStore(tmp_path).unit("data", {}).commit()
        raise DataError("no such file")
    assert load(tmp_path / "recipe.yaml").seed == 2


def test_a_full_disk_hides_neither_the_first_error_nor_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for error in (RunStoreError("data/images/001_0.png: cannot be written"), KeyboardInterrupt()):
        with monkeypatch.context() as patch, pytest.raises(type(error)) as caught, recorded(run_in(tmp_path)):
            patch.setattr(os, "fsync", full)
            raise error
        assert caught.value is error


def test_versions_seed_and_hardware_are_recorded(tmp_path: Path) -> None:
    with recorded(run_in(tmp_path, seed=7)):
        pass
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["seed"], record["model"]) == (7, "tiny")
    assert record["versions"]["torch"] == installed("torch") != "missing"
    assert record["hardware"]["cores"] >= 1
    assert installed("no-such-library") == "missing"


def test_seconds_are_summed_by_stage_and_interrupted_attempts_count(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    seconds = {
        "data": 1.0, "models/target": 2.0, "models/forget_10/retain_model": 3.0, "models/forget_10/ga": 4.0,
        "eval/forget_10/ga/responses": 5.0, "eval/forget_10/ga/scores": 6.0,
    }  # fmt: skip
    for name, spent in seconds.items():
        unit = store.unit(name, {})
        write_json(unit.building / ELAPSED_FILE, {"seconds": spent})
        with unit.making():
            pass
    expected = {"data": 1.0, "finetune": 5.0, "unlearn": 4.0, "evaluate": 5.0, "score": 6.0}
    assert seconds_by_stage(tmp_path) == pytest.approx(expected, abs=0.1)


def test_a_damaged_unit_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "unit.json").write_text("{")
    with pytest.raises(RunStoreError, match=r"data/unit\.json: damaged"), recorded(run_in(tmp_path)):
        pass


def test_the_data_depend_on_the_content_of_the_files_they_are_made_from(tmp_path: Path) -> None:
    text, ids, images = tmp_path / "people.jsonl", tmp_path / "ids.json", tmp_path / "images"
    images.mkdir()
    (images / "001.png").write_bytes(b"face")
    text.write_text("a")
    ids.write_text("{}")

    def fingerprint() -> str:
        data = {
            "source": {"name": "mllmu_bench", "path": str(text)},
            "portraits": {"name": "folder", "path": str(images)},
            "splits": {"file": str(ids), "keys": ["forget_10"]},
        }
        return data_unit(run_in(tmp_path / "run", data=data)).fingerprint

    seen = [fingerprint()]
    assert fingerprint() == seen[0]
    for path in (text, ids, images / "001.png", images / "002.png"):
        path.write_text(f"changed {path.name}")
        seen.append(fingerprint())
    assert len(set(seen)) == 5


def test_a_folder_is_known_by_the_names_and_contents_of_its_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"1")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")
    (tmp_path / "b" / "x.png").rename(tmp_path / "b" / "y.png")
    assert content_digest(tmp_path / "a") != content_digest(tmp_path / "b")


def test_what_no_setting_changes_is_in_the_record_and_is_what_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(run_in(tmp_path / "run")):
        pass
    fixed = json.loads((tmp_path / "run/run.json").read_text())["fixed"]
    assert fixed["max_grad_norm"] == 1.0
    assert fixed["unlearning"] == {"warmup": 0.0, "weight_decay": 0.0}
    made: list[torch.optim.Optimizer] = []
    clipped: list[float] = []
    adamw, clip = torch.optim.AdamW, torch.nn.utils.clip_grad_norm_

    def shown_adamw(weights: Any, **settings: Any) -> torch.optim.Optimizer:
        made.append(adamw(weights, **settings))
        return made[0]

    def shown_clip(weights: Any, limit: float, **settings: Any) -> torch.Tensor:
        clipped.append(limit)
        return clip(weights, limit, **settings)

    monkeypatch.setattr(torch.optim, "AdamW", shown_adamw)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", shown_clip)
    model = torch.nn.Linear(2, 1)
    training = Training(folder=tmp_path, label="x", seed=0, progress=SilentProgress())
    train(model, lambda _: {"loss": model.weight.sum()}, Schedule(num_steps=1, learning_rate=0.1), training)
    expected = {"betas": tuple(fixed["betas"]), "eps": fixed["eps"], "weight_decay": 0.0}
    assert [{name: optimizer.defaults[name] for name in expected} for optimizer in made] == [expected]
    assert clipped == [fixed["max_grad_norm"]]


@pytest.mark.parametrize(("others", "workers", "expected"), [(0, 1, 4), (30, 1, 3), (100, 1, 1), (0, 2, 2), (60, 3, 1)])
def test_threads_of_a_large_model_are_the_cores_that_others_leave(
    monkeypatch: pytest.MonkeyPatch, others: float, workers: int, expected: int
) -> None:
    """What this process did before, as portraits and the commands before it, does not count against it."""
    monkeypatch.setattr(record.devices, "is_small", lambda *_: False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 4.0, 4.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("psutil.cpu_percent", lambda **_: others)
    assert record.threads("tiny", workers) == expected
