"""Many recipes at a time, unit by unit, on whatever engine there is: the folders that the ordinary runs would make.

    data -> make target, retain models -> ask both -> gate -> make every method -> ask it -> attacks -> finish

A unit of a sweep is one model made or asked, or one attack on it. The last unit of a recipe is its ordinary run, which
finds everything there, and scores and draws; so a sweep has no results of its own, and the same command continues one
whose head, or whose machine, was lost.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout

from mllmu.config.recipe import Recipe
from mllmu.core.errors import RunStoreError
from mllmu.core.names import TARGET
from mllmu.core.process import Progress
from mllmu.core.runfolder import UNIT_FILE, RunFolder, read_json, seal, write_json
from mllmu.parallel.pool import Task
from mllmu.parallel.schedule import Engine, Resources, UnitSchedule, WorkUnit
from mllmu.pipeline.attacks import AttackStudy, attack_jobs
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.gate import pass_gate
from mllmu.pipeline.known import known_samples, wants_known
from mllmu.pipeline.pipeline import Pipeline
from mllmu.pipeline.record import recorded_threads, settle_worker
from mllmu.pipeline.run import Run
from mllmu.pipeline.workers import worker_pipeline
from mllmu.studies.board_page import index_ratios

LOCKS = ".sweep"
"""Folder of the locks of units in a run folder, while a sweep is at work."""
PATIENCE_S = 120.0
"""How long a unit waits for a process that was thought lost and still works on it."""


class SweptRun(NamedTuple):
    """A recipe of a sweep and its run folder."""

    recipe: Recipe
    root: Path


class SweepOrder(NamedTuple):
    """What every process of a sweep knows; ``check`` is called on a pipeline whose data are made, as by ``run``."""

    runs: Mapping[str, SweptRun]
    gate: bool = True
    check: Callable[[Pipeline], None] | None = None

    def start_worker(self, index: int, progress: Progress) -> "UnitWorker":
        """Prepare a process for units."""
        return UnitWorker(self, index, progress)


class UnitWorker:
    """Does units of a sweep in one process, which keeps the base model from one unit to the next."""

    def __init__(self, order: SweepOrder, index: int, progress: Progress) -> None:
        self.order, self.index, self.progress = order, index, progress
        self._at = ""
        self._pipeline: Pipeline | None = None

    def __call__(self, name: str, kind: str, key: str, model: str, attack: str) -> None:
        """One unit, unless it is there."""
        with alone(self.order.runs[name].root, "-".join((kind, key, model, attack))):
            if kind == "data":
                self._data(name)
            elif kind == "finish":
                self._finish(name)
            elif kind == "make":
                self._within(name).do("make", key, model)
            elif kind == "attack":
                study = AttackStudy(self._within(name).state, key)
                if model in study.models:
                    study.attack(attack, model)
            elif kind == "ask":
                self._ask(self._evaluation(name, key), model)
            else:
                pass_gate(self._evaluation(name, key), stop=self.order.gate and self.order.runs[name].recipe.gate)

    def _data(self, name: str) -> None:
        recipe, root = self.order.runs[name]
        if not recorded_threads(root):
            # what an engine gives a process by default (Ray: one thread) is not what an ordinary run would begin with
            torch.set_num_threads(os.cpu_count() or 1)
        pipeline = Pipeline(recipe, root, progress=self.progress)
        pipeline.run("data")
        mark(root, "running")
        if self.order.check:
            self.order.check(pipeline)
        if wants_known(pipeline.state):
            known_samples(pipeline.state)  # asked here, by one process

    def _finish(self, name: str) -> None:
        recipe, root = self.order.runs[name]
        Pipeline(recipe, root, gate=self.order.gate, progress=self.progress).run()
        index_ratios(recipe, root)

    def _within(self, name: str) -> Pipeline:
        """The pipeline of a run, with the threads that its record says."""
        if self._pipeline is None or self._at != name:
            self._pipeline = worker_pipeline(Pipeline, *self.order.runs[name], self.index, self.progress)
            self._at = name
        settle_worker(self.order.runs[name].root, self.index)  # another run may have computed with other threads
        return self._pipeline

    def _evaluation(self, name: str, key: str) -> Evaluation:
        evaluation = self._within(name).evaluations[key]
        if "samples" not in vars(evaluation):
            evaluation.prepare()
        return evaluation

    def _ask(self, evaluation: Evaluation, model: str) -> None:
        """Ask a model; one that is there under an earlier name is left to the last unit, which copies."""
        run, made = evaluation.run, partial(RunFolder.model_unit, evaluation.key)
        there = [name for name in run.models if (run.root / made(name) / UNIT_FILE).is_file()]
        if model in evaluation.distinct(there):
            evaluation.ask(model)


@contextmanager
def alone(root: Path, unit: str) -> Iterator[None]:
    """Keep a process that was thought lost, and is not, from making the same unit at the same time."""
    lock = FileLock(root / LOCKS / f"{unit}.lock", timeout=PATIENCE_S)
    lock_path = Path(lock.lock_file)
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with lock:
            yield
    except Timeout:
        raise RunStoreError(f"{root}: another process still makes the unit {unit}. Stop it, then repeat.") from None


def mark(root: Path, status: str) -> None:
    """Enter how a run stands into its record."""
    path = root / RunFolder.RECORD
    if record := read_json(path):
        write_json(path, seal({**record, "status": status}))


def units_behind_data(name: str, run: Run, resources: Callable[[str], Resources]) -> Iterator[WorkUnit]:
    """The units of a run whose data are made; ``resources`` says what a kind of unit asks for."""
    threads = recorded_threads(run.root) or 1

    def unit(kind: str, key: str, model: str = "", needs: Iterable[Task] = (), attack: str = "") -> WorkUnit:
        asked = resources(kind)._replace(cpus=threads)
        return WorkUnit((name, kind, key, model, attack), frozenset(needs), asked)

    target = unit("make", run.keys[0], TARGET)
    found = [target]
    for key in run.keys:
        retained = [unit("make", key, name) for name in run.taught[1:]]
        asked = [unit("ask", key, one.task[3], [one.task]) for one in (target, *retained)]
        gate = unit("gate", key, needs=[one.task for one in asked])
        made = [unit("make", key, job, [gate.task]) for job in run.jobs]
        asked += [unit("ask", key, one.task[3], [one.task]) for one in made]
        there = [one.task for one in (target, *retained, *made)]
        attacks = attack_jobs(run.recipe.evaluate.attacks) if run.recipe.evaluate.attacks else []
        tried = [unit("attack", key, model, there, job.name) for job in attacks for model in run.models]
        found += [*retained, *asked, gate, *made, *tried]
    yield from found
    yield unit("finish", "", needs=[one.task for one in found])


def sweep(
    order: SweepOrder,
    engine: Engine,
    *,
    resources: Callable[[str, str], Resources] = lambda _name, _kind: Resources(),
    retries: int = 3,
    progress: Progress,
) -> UnitSchedule:
    """Do all units of some recipes; one that fails stops those that need it, and no others.

    Args:
        order: the recipes and their folders, which the caller holds.
        engine: entered already.
        resources: what a unit asks for, by the name of its run and its kind; its cores are the threads of the record.
        retries: how often a unit is done again whose worker was lost.
        progress: told of every unit that has ended.

    Returns:
        The schedule, with what failed and what was not begun therefore.
    """

    def then(task: Task) -> Iterable[WorkUnit]:
        name, kind, *_ = task
        return (
            units_behind_data(name, Run(*order.runs[name], progress), partial(resources, name))
            if kind == "data"
            else ()
        )

    progress.stage("sweep", f"{len(order.runs)} recipe(s)")
    schedule = UnitSchedule(engine, progress, retries=retries)
    try:
        schedule.run(
            (WorkUnit((name, "data", "", "", ""), resources=resources(name, "data")) for name in order.runs), then
        )
    except BaseException:
        for run in order.runs.values():
            mark(run.root, "interrupted")
        raise
    for name in {task[0] for task in schedule.failed}:
        mark(order.runs[name].root, "failed")
    for run in order.runs.values():
        shutil.rmtree(run.root / LOCKS, ignore_errors=True)
    return schedule
