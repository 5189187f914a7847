"""Units are done in the order of their needs, again if a worker was lost, and never if what they need has failed."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import pytest

from mllmu.core.errors import DataError, LostWorkerError
from mllmu.core.process import SilentProgress
from mllmu.parallel.pool import Task
from mllmu.parallel.schedule import Resources, UnitSchedule, WorkUnit


class Scripted:
    """An engine that ends tasks in the order that a test says, with the errors that it says."""

    def __init__(self, size: int, errors: dict[str, list[Exception]] | None = None) -> None:
        self.size, self.errors = size, errors or {}
        self.begun: list[str] = []
        self.asked: dict[str, Resources] = {}
        self.running: list[Task] = []
        self.most = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @property
    def room(self) -> int:
        return self.size - len(self.running)

    def submit(self, task: Task, resources: Resources) -> None:
        self.begun.append(task[0])
        self.asked[task[0]] = resources
        self.running.append(task)
        self.most = max(self.most, len(self.running))

    def collect(self) -> list[tuple[Task, Exception | None]]:
        task = self.running.pop()
        told = self.errors.get(task[0], [])
        return [(task, told.pop(0) if told else None)]


class Told(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def units(**needs: str) -> list[WorkUnit]:
    return [WorkUnit((name,), frozenset((need,) for need in what.split())) for name, what in needs.items()]


def test_a_unit_begins_when_all_that_it_needs_has_ended() -> None:
    engine, told = Scripted(2), Told()
    graph = units(report="ask_a ask_b", ask_a="a", ask_b="b", a="data", b="data", data="")
    assert UnitSchedule(engine, told).run(graph) == {}
    place = engine.begun.index
    assert sorted(engine.begun) == sorted(unit.task[0] for unit in graph)
    assert all(place(need[0]) < place(unit.task[0]) for unit in graph for need in unit.needs)
    assert engine.most == 2
    assert [line.split("  ")[0] for line in told.lines] == [f"{n} of 6 units" for n in range(1, 7)]


def test_what_a_unit_found_out_can_add_units() -> None:
    engine = Scripted(1)
    more = {("data",): [WorkUnit(("make",), frozenset(), Resources(cpus=3))]}
    UnitSchedule(engine, SilentProgress()).run(units(data=""), lambda task: more.get(task, []))
    assert engine.begun == ["data", "make"]
    assert engine.asked["make"].cpus == 3


def test_a_lost_worker_costs_a_second_try_and_no_third_unit() -> None:
    engine, told = Scripted(1, {"a": [LostWorkerError("gone.")]}), Told()
    assert UnitSchedule(engine, told, retries=1).run(units(a="", b="a")) == {}
    assert engine.begun == ["a", "a", "b"]
    assert "lost (gone.) Once more, 1 of 1" in told.lines[0]


@pytest.mark.parametrize("error", [LostWorkerError("gone."), DataError("row 3 has no name.")])
def test_what_fails_stops_those_that_need_it_and_no_others(error: Exception) -> None:
    engine = Scripted(1, {"a": [error] * 3})
    schedule = UnitSchedule(engine, SilentProgress(), retries=1)
    failed = schedule.run(units(c="b", b="a", a="", x="", y="x"))
    assert failed == {("a",): error}
    assert schedule.skipped == {("b",): ("a",), ("c",): ("a",)}
    assert sorted(set(engine.begun)) == ["a", "x", "y"]
    assert engine.begun.count("a") == (2 if isinstance(error, LostWorkerError) else 1)
