"""A run whose models are made by several processes gives the bytes of a run in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mini_run import run, session_lives, write_recipe
from test_pipeline_interrupted import same_numbers

WORKERS = ("workers=2",)


@pytest.fixture
def one_thread() -> None:
    """As many threads as a worker has, so that sums are made in the same order."""
    assert torch.get_num_threads() == 1, "run the tests with OMP_NUM_THREADS=1"


@pytest.mark.usefixtures("one_thread")
def test_two_workers_give_the_same_bytes(base: Path, finished: Path, tmp_path: Path) -> None:
    same_numbers(run(base, tmp_path / "run", *WORKERS, only="score"), finished)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.slow
def test_a_killed_run_takes_its_workers_along_and_is_continued(base: Path, finished: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "mini.yaml", base, *WORKERS, "finetune.checkpoint_every_s=1e-9")
    root = tmp_path / "run"
    command = [sys.executable, "-m", "mllmu", "run", str(recipe), "--out", str(root), "--only", "score"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
    waited = time.monotonic() + 300
    while not list(root.glob("models/**/checkpoint*")) and not list(root.glob("models/target")):
        assert time.monotonic() < waited, "no worker began within five minutes"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    waited = time.monotonic() + 60
    while session_lives(process.pid):
        assert time.monotonic() < waited, "a worker outlives the run that was killed"
        time.sleep(0.05)
    subprocess.run(command, check=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"})
    same_numbers(root, finished)
