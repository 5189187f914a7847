"""A pool of worker processes that make several models of a run at the same time.

The processes share nothing but the run folder, and every task is a unit of it, so a worker that dies loses no more
than a stopped run would. The parent sends tasks, shows what the workers report, and passes on their first error.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

from mllmu.core.errors import LostWorkerError, MllmuError, is_out_of_memory, one_line
from mllmu.core.process import Progress, SilentProgress

PATIENCE_S = 5.0
"""How long a worker may tidy up before it is killed."""

Task = tuple[str, ...]
StartWorker = Callable[[int, Progress], Callable[..., object]]
"""Index of the worker (0, 1 ...) and its progress -> the function that runs a task. Called in the worker; picklable."""


def is_worker() -> bool:
    """Whether this process is a worker of a pool, which can have no workers of its own and does its tasks itself."""
    return multiprocessing.current_process().daemon


class _Worker(NamedTuple):
    place: int
    process: SpawnProcess
    connection: Connection
    progress: Progress


class WorkerPool:
    """Processes that run tasks; they start with the first task and end with the ``with`` block.

    Args:
        size: largest number of tasks at a time.
        start_worker: prepares a process for tasks.
        progress: receives what all workers report.
    """

    def __init__(self, size: int, start_worker: StartWorker, progress: Progress) -> None:
        self.size = size
        self.start_worker = start_worker
        self.progress = progress
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, _Worker] = {}
        self._tasks: dict[Connection, Task] = {}

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._busy.values():
            worker.process.terminate()  # a unit is complete or resumable at every moment, so nothing is lost
        for worker in (*self._idle, *self._busy.values()):
            worker.connection.close()  # an idle one has nobody to work for and ends
            worker.process.join(PATIENCE_S)
            worker.process.kill()
            worker.process.join()
            worker.progress.close()
        self._idle, self._busy = [], {}

    def do(self, tasks: Iterable[Task], ended: Callable[[], object] = lambda: None) -> None:
        """Do all tasks, in any order; ``ended`` is called after each.

        Raises:
            MllmuError: the first that a worker raised.
            LostWorkerError: a worker was killed, most likely because memory ran out.
        """
        waiting = list(tasks)
        while waiting or self._busy:
            while waiting and self.room:
                self.submit(waiting.pop(0))
            for _, error in self.collect():
                if error:
                    raise error
                ended()

    @property
    def room(self) -> int:
        """How many more tasks can begin now."""
        return self.size - len(self._busy)

    def submit(self, task: Task) -> None:
        """Let an idle worker begin a task; there must be :attr:`room`."""
        self._idle = [worker for worker in self._idle if worker.process.is_alive()]
        worker = self._idle.pop() if self._idle else self._start()
        worker.connection.send(task)
        self._busy[worker.connection], self._tasks[worker.connection] = worker, task

    def collect(self) -> list[tuple[Task, Exception | None]]:
        """Wait until a worker says something; the tasks that have ended, with their errors."""
        ended = []
        for connection in wait(list(self._busy)):
            told = self._receive(self._busy[connection])  # type: ignore[index]
            if told:
                ended.append((self._tasks.pop(connection), told[0]))  # type: ignore[call-overload]
        return ended

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        index = min(set(range(self.size)) - {worker.place for worker in self._busy.values()})
        process = context.Process(target=_work, args=(theirs, self.start_worker, index), daemon=True)
        process.start()
        theirs.close()
        return _Worker(index, process, ours, self.progress.lane())

    def _receive(self, worker: _Worker) -> tuple[Exception | None] | None:
        """Pass on what a worker reports; the end of its task is a tuple of its error."""
        try:
            kind, *content = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            return (self._bury(worker),)
        if kind == "progress":
            method, args, facts = content
            getattr(worker.progress, method)(*args, **facts)
            return None
        self._idle.append(self._busy.pop(worker.connection))
        return (content[0],)

    def _bury(self, worker: _Worker) -> Exception:
        """Take a worker that is gone off the list; the error that says so."""
        worker.process.join()
        worker.connection.close()
        worker.progress.close()
        del self._busy[worker.connection]
        return LostWorkerError(
            f"a worker process ended with code {worker.process.exitcode} in the middle of its task. Memory may "
            f"have run out: use fewer than {self.size} workers. Everything finished is kept."
        )


class _Relay(SilentProgress):
    """Sends what a task reports to the parent; the stage is the parent's own affair."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, label: str, total: int) -> None:
        self._send("start", label, total)

    def advance(self, n: int = 1, **facts: float) -> None:
        self._send("advance", n, **facts)

    def finish(self) -> None:
        self._send("finish")

    def note(self, text: str) -> None:
        self._send("note", text)

    def _send(self, method: str, *args: Any, **facts: float) -> None:
        self._connection.send(("progress", method, args, facts))


def _work(connection: Connection, start_worker: StartWorker, index: int) -> None:
    """Life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which then ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    do: Callable[..., object] | None = None
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            do = do or start_worker(index, _Relay(connection))
            do(*task)
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent decides
            connection.send(("ended", told_of(error)))
        else:
            connection.send(("ended", None))


def told_of(error: Exception) -> Exception:
    """An error of a task as another process can read it; to be called where it is handled."""
    bug = RuntimeError(f"in a worker process:\n{traceback.format_exc()}")
    told = MemoryError(one_line(error)) if is_out_of_memory(error) else bug
    return error if isinstance(error, MllmuError) else told


def _end_with_parent() -> None:
    """A worker must not go on writing after its parent was killed: another run may use the folder by then."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
