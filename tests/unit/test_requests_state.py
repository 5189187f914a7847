"""What a user calls the model: its base is found again from any folder, and one that is none is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mllmu.core.errors import ModelError
from mllmu.core.records import ModelRef
from mllmu.requests.state import model_given, model_hash


def not_on_the_hub(path: str, *_: object, **__: object) -> None:
    raise OSError(f"{path} is not a model identifier")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a base, and an adapter that names it by a relative path."""
    monkeypatch.setattr("mllmu.models.base_files.cached_file", not_on_the_hub)
    (tmp_path / "bases/llava").mkdir(parents=True)
    (tmp_path / "bases/llava/config.json").write_text("{}")
    (tmp_path / "adapter").mkdir()
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": "x",
        "base_model_name_or_path": "bases/llava",
    }
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_base_that_is_a_folder_is_named_by_its_whole_path(here: Path) -> None:
    base = str((here / "bases/llava").resolve())
    assert model_given("bases/llava", "") == model_given("./bases/../bases/llava/", "") == (base, None, [])
    assert model_given(base, "") == (base, None, [])
    adapter = [(here / "adapter").resolve()]
    assert model_given("adapter", "") == model_given("adapter", "bases/llava") == (base, None, adapter)


def test_a_model_of_a_run_folder_has_its_base_resolved_and_embedded_ones_keep_their_name(here: Path) -> None:
    (here / "tiny").mkdir()
    assert model_given("tiny", "") == ("tiny", None, []) and model_given("adapter", "tiny")[0] == "tiny"
    unit = here / "run/models/target"
    unit.mkdir(parents=True)
    (unit / "model.json").write_text(ModelRef(base="bases/llava", adapters=("models/target",)).model_dump_json())
    assert model_given("run/models/target", "") == (str(here / "bases/llava"), None, [unit])


def test_the_hash_of_a_model_does_not_depend_on_the_path_of_its_base(here: Path) -> None:
    refs = [ModelRef(base=base) for base in ("bases/llava", str(here / "bases/llava"))]
    assert len({model_hash(ref, here) for ref in refs}) == 1


@pytest.mark.parametrize(
    ("model", "base", "said"),
    [
        ("bases", "", "bases: no config.json there"),
        ("bases/lava", "", "'bases/lava' cannot be loaded"),
        ("adapter", "adapter", "It is the folder of an adapter"),
        ("adapter/adapter_config.json", "", "a file. Expected the folder"),
        ("https://huggingface.co/org/llava", "", "Expected the name on the hub: org/llava"),
        ("bases/llava", "tiny", "is no adapter"),
    ],
)
def test_what_is_no_model_is_told_before_anything_is_begun(here: Path, model: str, base: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        model_given(model, base)


def test_an_adapter_with_impossible_values_is_told(here: Path) -> None:
    config = json.loads((here / "adapter/adapter_config.json").read_text())
    (here / "adapter/adapter_config.json").write_text(json.dumps(config | {"r": 0}))
    with pytest.raises(ModelError, match="r: Input should be greater than 0"):
        model_given("adapter", "")
