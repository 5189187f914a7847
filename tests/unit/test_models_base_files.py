"""The identity of a base model: what its files hold, however its path is spelled, and read only when they changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mllmu.core.errors import ModelError, RunStoreError
from mllmu.core.runfolder import RunStore
from mllmu.evaluation.judges.local import Local
from mllmu.models import base_files as module
from mllmu.models.base_files import BASE, CACHE, base_files, check_base
from mllmu.models.loading import source_of


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "models" / "copy"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose contents are read."""
    names: list[str] = []
    real = module.content_digest

    def counted(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(module, "content_digest", counted)
    return names


def test_weights_settings_tokenizer_template_and_processor_decide_and_nothing_else(copy: Path) -> None:
    before = base_files(str(copy))
    assert {"model.safetensors", "config.json", "tokenizer.json", "processor_config.json"} <= set(before)
    assert "red.png" not in before
    (copy / "README.md").write_text("about this model")
    (copy / "notes.txt").write_text("x")
    assert base_files(str(copy)) == before
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert set(base_files(str(copy))) ^ set(before) <= {"chat_template.jinja"}
    assert base_files(str(copy)) != before


def test_every_spelling_and_every_copy_is_the_same_model(
    tiny_base: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy.parent / "link").symlink_to(copy)
    monkeypatch.chdir(copy.parent)
    spelled = [f"{copy}/", "copy", "./copy", "../models/copy", "link", str(tiny_base)]
    assert all(base_files(path) == base_files(str(copy)) for path in spelled)
    assert base_files("tiny") == base_files(source_of("tiny"))


def test_a_file_is_read_once_and_again_when_it_was_touched(copy: Path, tmp_path: Path, reads: list[str]) -> None:
    root = tmp_path / "run"
    first = base_files(str(copy), keep_in=root)
    assert sorted(reads) == sorted(name.rpartition("/")[2] for name in first)
    reads.clear()
    assert base_files(f"{copy}/", keep_in=root) == first
    assert reads == []
    before = (copy / "config.json").stat()
    data = (copy / "config.json").read_bytes()
    (copy / "config.json").write_bytes(data.replace(b"320", b"321"))
    os.utime(copy / "config.json", ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, and set back
    second = base_files(str(copy), keep_in=root)
    assert reads == ["config.json"]
    assert {name for name in first if first[name] != second[name]} == {"config.json"}


def test_damaged_notes_only_cost_time(copy: Path, tmp_path: Path) -> None:
    expected = base_files(str(copy), keep_in=tmp_path)
    for text in ("", "null", "[1]", '{"files": 3}', "{", '{"path": 1, "files": {}}'):
        (tmp_path / CACHE).write_text(text)
        assert base_files(str(copy), keep_in=tmp_path) == expected


def test_a_folder_that_is_gone_is_still_known_to_its_run_and_to_no_other(copy: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    known = base_files(str(copy), keep_in=root)
    copy.rename(tmp_path / "elsewhere")
    assert base_files(str(copy), keep_in=root) == known
    with pytest.raises(ModelError, match=r"model\.path: '.*nowhere' cannot be loaded"):
        base_files(str(tmp_path / "nowhere"), keep_in=root)
    with pytest.raises(ModelError, match=r"model\.path: '.*copy' cannot be loaded"):
        base_files(str(copy))


def test_a_repository_of_the_hub_is_its_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commits = {None: "4f1c", "v1": "09ab"}
    monkeypatch.setattr(
        module, "cached_file", lambda _, name, revision: str(tmp_path / "snapshots" / commits[revision] / name)
    )
    assert base_files("owner/model") == {"commit": "4f1c"}
    assert base_files("owner/model", "v1", keep_in=tmp_path) == {"commit": "09ab"}


def test_a_finished_unit_names_the_file_that_changed(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with store.unit("models/target", {BASE: {"config.json": "aa", "model.safetensors": "bb"}}).making():
        pass
    folder = tmp_path / "models" / "target"
    check_base(folder, {"config.json": "aa", "model.safetensors": "bb"}, "llava")
    check_base(tmp_path / "models" / "not made yet", {"config.json": "cc"}, "llava")
    said = r"target: was made on another base model than the one at llava now: model\.safetensors was changed \(bb, now"
    with pytest.raises(RunStoreError, match=said):
        check_base(folder, {"config.json": "aa", "model.safetensors": "cc"}, "llava")
    said = r"chat_template\.jinja and 2 more were changed \(not there, now dd\).*Put the old files back, use --force"
    with pytest.raises(RunStoreError, match=said):
        check_base(folder, {"chat_template.jinja": "dd", "config.json": "x"}, "llava")


def test_a_local_judge_is_known_by_its_files(copy: Path) -> None:
    first, again = Local(path=str(copy)).identity(), Local(path=f"{copy}/", device="cpu").identity()
    assert first == again
    json.dumps(first)
    (copy / "tokenizer_config.json").write_text("{}")
    assert Local(path=str(copy)).identity() != first
