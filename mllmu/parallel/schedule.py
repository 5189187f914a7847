"""Units of work that need each other, done by an engine: worker processes here, a Ray cluster, or Slurm.

An engine knows nothing of the units: it carries tasks to processes and tells how each has ended. The order, what is
tried again, and what cannot be done any more are decided here, alike for every engine.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from mllmu.core.errors import LostWorkerError
from mllmu.core.process import Progress
from mllmu.parallel.pool import Task


class Resources(NamedTuple):
    """What a unit asks an engine for: cores, GPUs (a share, if below 1), bytes of main memory (0: no claim)."""

    cpus: int = 1
    gpus: float = 0.0
    memory: int = 0


class WorkUnit(NamedTuple):
    """A task, the tasks that must have ended well before it begins, and what it asks for."""

    task: Task
    needs: frozenset[Task] = frozenset()
    resources: Resources = Resources()


class Engine(Protocol):
    """Carries tasks to processes; used as a context, at whose end nothing of it runs any more."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def room(self) -> int:
        """How many more tasks it takes now; an engine with a queue of its own takes all."""
        ...

    def submit(self, task: Task, resources: Resources) -> None:
        """Begin a task, or queue it."""
        ...

    def collect(self) -> list[tuple[Task, Exception | None]]:
        """Wait for a moment; the tasks that have ended since, with their errors (LostWorkerError: try again)."""
        ...


class UnitSchedule:
    """Does units in the order of their needs.

    Args:
        engine: does the tasks.
        progress: told of every unit that has ended.
        retries: how often a unit is done again whose worker was lost. A unit is complete or can be continued at every
            moment, so nothing but time is lost with a worker.
    """

    def __init__(self, engine: Engine, progress: Progress, *, retries: int = 3) -> None:
        self.engine = engine
        self.progress = progress
        self.retries = retries
        self._waiting: dict[Task, WorkUnit] = {}
        self._running: dict[Task, WorkUnit] = {}
        self._since: dict[Task, float] = {}
        self._done: set[Task] = set()
        self._lost: Counter[Task] = Counter()
        self.failed: dict[Task, Exception] = {}
        self.skipped: dict[Task, Task] = {}
        """Units that were not begun, each with the failed one that it needs, directly or through others."""

    def run(
        self, units: Iterable[WorkUnit], then: Callable[[Task], Iterable[WorkUnit]] = lambda _: ()
    ) -> dict[Task, Exception]:
        """Do units, and those that ``then`` adds when a task has ended well.

        Returns:
            The tasks that failed; what needs them was not begun, all others are done.
        """
        self._add(units)
        while self._submit() or self._running:
            for task, error in self.engine.collect():
                unit = self._running.pop(task)
                if error is None:
                    self._done.add(task)
                    self._add(then(task))
                    self._tell(task, f"{time.monotonic() - self._since[task]:.0f} s")
                elif isinstance(error, LostWorkerError) and self._lost[task] < self.retries:
                    self._lost[task] += 1
                    self._waiting[task] = unit
                    self._tell(task, f"lost ({error}) Once more, {self._lost[task]} of {self.retries}")
                else:
                    self.failed[task] = error
                    self._tell(task, f"failed: {error}")
        return self.failed

    def _add(self, units: Iterable[WorkUnit]) -> None:
        self._waiting |= {unit.task: unit for unit in units}

    def _submit(self) -> bool:
        """Begin what can begin; whether anything did."""
        self._skip()
        begun = False
        for task, unit in list(self._waiting.items()):
            if unit.needs <= self._done and self.engine.room > 0:
                self._running[task] = self._waiting.pop(task)
                self._since[task] = time.monotonic()
                self.engine.submit(task, unit.resources)
                begun = True
        return begun

    def _skip(self) -> None:
        """Take out what needs a unit that failed, what needs that, and so on."""
        while True:
            broken = self.failed.keys() | self.skipped.keys()
            found = {task: unit.needs & broken for task, unit in self._waiting.items() if unit.needs & broken}
            if not found:
                return
            for task, needs in found.items():
                first = min(needs)
                self.skipped[task] = self.skipped.get(first, first)
                del self._waiting[task]

    def _tell(self, task: Task, how: str) -> None:
        known = sum(map(len, (self._done, self._waiting, self._running, self.failed, self.skipped)))
        self.progress.note(f"{len(self._done)} of {known} units  {' '.join(filter(None, task))}: {how}")
