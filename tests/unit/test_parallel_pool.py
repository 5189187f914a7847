"""Worker processes: tasks are done by several, errors and deaths come back as one clear message."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mllmu.core.errors import DataError, FaultsError, ModelError
from mllmu.core.process import Progress, SilentProgress
from mllmu.parallel.pool import WorkerPool


def write_down(folder: Path, place: int, progress: Progress) -> Callable[[str, str], None]:
    """A worker whose tasks leave a file with its place, or end badly."""

    def do(what: str, name: str) -> None:
        progress.start(name, 1)
        if what == "data":
            raise DataError("people.csv: row 3 has no name.")
        if what == "faults":
            raise FaultsError("2 faults.", ["row 1", "row 2"])
        if what == "memory":
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")
        if what == "bug":
            raise KeyError(name)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        (folder / name).write_text(f"{place} {os.getpid()}")
        progress.advance(1, loss=0.5)
        progress.finish()

    return do


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []

    def start(self, label: str, total: int) -> None:
        self.said.append(("start", label, total))

    def advance(self, n: int = 1, **facts: float) -> None:
        self.said.append(("advance", n, facts))


def test_two_workers_share_the_tasks_and_report(tmp_path: Path) -> None:
    heard = Heard()
    with WorkerPool(2, partial(write_down, tmp_path), heard) as workers:
        workers.do([("write", name) for name in "abcd"])
        workers.do([])
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(written) == set("abcd")
    assert {text.split()[0] for text in written.values()} == {"0", "1"}
    assert len({text.split()[1] for text in written.values()} - {str(os.getpid())}) == 2
    assert sorted(str(said[1]) for said in heard.said if said[0] == "start") == list("abcd")
    assert heard.said.count(("advance", 1, {"loss": 0.5})) == 4


@pytest.mark.parametrize(
    ("what", "kind", "text"),
    [
        ("data", DataError, "people.csv: row 3 has no name"),
        ("faults", FaultsError, "row 2"),
        ("bug", RuntimeError, "KeyError: 'x'"),
        ("die", ModelError, "ended with code -9"),
    ],
)
def test_what_goes_wrong_in_a_worker_is_raised_here(
    tmp_path: Path, what: str, kind: type[Exception], text: str
) -> None:
    with (
        pytest.raises(kind, match=text) as caught,
        WorkerPool(1, partial(write_down, tmp_path), SilentProgress()) as workers,
    ):
        workers.do([("write", "before"), (what, "x"), ("write", "after")])
    assert getattr(caught.value, "faults", ("row 1", "row 2")) == ("row 1", "row 2")
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


def test_too_little_memory_in_a_worker_is_told_as_such(tmp_path: Path) -> None:
    said = r"^DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes$"
    with (
        WorkerPool(1, partial(write_down, tmp_path), SilentProgress()) as workers,
        pytest.raises(MemoryError, match=said),
    ):
        workers.do([("memory", "x")])
