"""The engine of Slurm, with the executor of submitit that starts processes on this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mllmu.core.errors import DataError, LostWorkerError, ProcessError
from mllmu.core.process import Progress, SilentProgress
from mllmu.parallel.engines import SlurmEngine
from mllmu.parallel.schedule import Resources, UnitSchedule, WorkUnit

pytest.importorskip("submitit", reason="needs the extra slurm")


def start(folder: Path, index: int, progress: Progress) -> Callable[..., None]:
    """A worker that writes down its tasks; it refuses one, and another one kills it the first time."""
    del index, progress

    def work(name: str) -> None:
        if name == "refused":
            raise DataError("refused.")
        mark = folder / f"{name}.begun"
        if name == "lost" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / name).write_text(str(Path.cwd()), encoding="utf-8")

    return work


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmEngine:
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))  # jobs find this file
    return SlurmEngine(tmp_path / "jobs", {"timeout_min": 5}, partial(start, tmp_path), cluster="local")


def test_units_are_jobs_in_the_order_of_their_needs_and_a_lost_one_is_done_again(
    engine: SlurmEngine, tmp_path: Path
) -> None:
    units = [WorkUnit(("first",), frozenset()), WorkUnit(("lost",), frozenset({("first",)}))]
    with engine:
        assert UnitSchedule(engine, SilentProgress()).run(units) == {}
    assert (tmp_path / "first").read_text(encoding="utf-8") == str(Path.cwd()), "jobs work where the command does"
    assert (tmp_path / "lost").is_file()


def test_an_error_of_a_unit_comes_back_and_a_killed_job_is_a_lost_worker(engine: SlurmEngine) -> None:
    ended = {}
    with engine:
        for name in ("refused", "lost"):
            engine.submit((name,), Resources())
        while len(ended) < 2:
            ended |= dict(engine.collect())
    assert isinstance(ended["refused",], DataError) and isinstance(ended["lost",], LostWorkerError)


def test_without_slurm_the_engine_says_where_to_start(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"no Slurm here.*login node"):
        SlurmEngine(tmp_path, {}, partial(start, tmp_path)).__enter__()
