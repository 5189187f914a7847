"""One command at a time in a run folder, and no lock that outlives its process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmu.api import run
from mllmu.cli.app import app
from mllmu.core.errors import RunStoreError
from mllmu.core.lock import HOLDER_FILE, claim, held

HOLD = """
import sys
from pathlib import Path
from mllmu.core.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
Holder = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def holder() -> Holder:
    """Starts a process that holds a folder until its standard input ends."""

    def start(root: Path, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(root)],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    return start


def test_a_folder_in_use_is_one_message_that_says_who_is_at_work(holder: Holder, tmp_path: Path) -> None:
    recipe, root = tmp_path / "small.yaml", tmp_path / "run"
    recipe.write_text("name: small\n")
    with holder(root) as first:
        known = json.loads((root / HOLDER_FILE).read_text())
        second = CliRunner().invoke(app, ["run", str(recipe), "--out", str(root)])
        assert second.exit_code == 2
        ahead, said = second.stderr.splitlines(keepends=True)
        assert ahead.startswith("ahead: ") and said == (
            f"error: {root}: process {first.pid} on {known['host']} since {known['since']} is at work in this run "
            "folder. Wait for it or stop it, or use --out for another run folder.\n"
        )
        for command in ("data", "finetune", "tune", "trust", "layers"):
            assert CliRunner().invoke(app, [command, str(recipe), "--out", str(root)]).stderr.endswith(said)
        for command in (["validate", str(recipe)], ["ls", "judges"]):
            assert CliRunner().invoke(app, command).exit_code == 0, "what only reads is not kept out"
        first.communicate("")
    assert not (root / HOLDER_FILE).exists()
    with held(root):
        assert json.loads((root / HOLDER_FILE).read_text())["pid"] == os.getpid()


def test_a_killed_process_leaves_no_lock_behind(holder: Holder, tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert json.loads((tmp_path / HOLDER_FILE).read_text())["pid"] == first.pid, "it could not clean up"
    with held(tmp_path):
        assert json.loads((tmp_path / HOLDER_FILE).read_text())["pid"] == os.getpid()


def test_the_first_rank_of_a_distributed_launch_holds_the_folder_for_all(holder: Holder, tmp_path: Path) -> None:
    launched = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with holder(tmp_path, RANK="0", **launched) as first:
        with holder(tmp_path, RANK="1", **launched) as other:
            other.communicate("")
            assert other.returncode == 0
        with pytest.raises(RunStoreError, match=f"process {first.pid} on"), held(tmp_path):
            pass
        first.communicate("")


def test_an_error_inside_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), held(tmp_path):
        raise KeyError
    with held(tmp_path):
        pass


def test_a_folder_that_is_a_file_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunStoreError, match=r"file: cannot be written"), held(tmp_path / "file"):
        pass


def test_a_folder_with_things_of_others_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "recipe.yaml"
    mine.write_text("name: mine\n")
    (tmp_path / "data").mkdir()
    for _ in range(2):
        with (
            pytest.raises(RunStoreError, match=r"is not empty and was not made by mllmu.* with --out"),
            held(tmp_path),
        ):
            pytest.fail("it was taken")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "recipe.yaml"]
    assert mine.read_text() == "name: mine\n"


def test_a_run_folder_stays_one_whatever_is_put_beside(tmp_path: Path) -> None:
    for _ in range(2):
        with held(tmp_path / "run"):
            (tmp_path / "run" / "notes.txt").write_text("mine")
    claim(tmp_path)  # holds nothing but run folders
    (tmp_path / "index.html").write_text("")
    claim(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "data/unit.json", "eval/forget_5/npo/responses/unit.json"])
def test_run_folders_of_earlier_versions_are_known(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"mllmu": "0.1", "inputs": {}}')
    (tmp_path / "recipe.yaml").write_text("name: x")
    claim(tmp_path)


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with held(tmp_path):
        pass
    kept = [tmp_path / name for name in (".tmp", "x.tmp", ".notes.tmp", "data/.x.0123.old")]
    left = [tmp_path / name for name in (".run.json.0123456789abcdef.tmp", "data/.a/.checkpoint.safetensors.tmp")]
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    with held(tmp_path):
        assert all(path.is_file() for path in kept) and not any(path.exists() for path in left)


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_out_is_no_folder(empty: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("name: small\n")
    done = CliRunner().invoke(app, ["data", str(tmp_path / "small.yaml"), "--out", empty])
    assert done.exit_code == 2 and "empty, which is no folder" in done.output
    with pytest.raises(RunStoreError, match="empty"):
        run(tmp_path / "small.yaml", "")
