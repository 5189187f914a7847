"""The engines of a sweep: the worker pool of this machine, a Ray cluster, and Slurm through submitit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from mllmu.core.errors import LostWorkerError, ProcessError, needs_extra, one_line
from mllmu.core.process import Progress, SilentProgress
from mllmu.parallel.pool import StartWorker, Task, WorkerPool, told_of
from mllmu.parallel.schedule import Resources

ALONE: dict[str, Any] = {"include_dashboard": False}
"""How a cluster is started that ends with the command."""
POLL_S = 1.0
"""How long a moment is in which an engine waits for the end of a task."""


class LocalEngine:
    """Worker processes on this machine; their number bounds what runs at a time, whatever the units ask for."""

    def __init__(self, size: int, start_worker: StartWorker, progress: Progress) -> None:
        self._pool = WorkerPool(size, start_worker, progress)

    def __enter__(self) -> Self:
        self._pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    @property
    def room(self) -> int:
        return self._pool.room

    def submit(self, task: Task, resources: Resources) -> None:  # noqa: ARG002 - one task per worker
        self._pool.submit(task)

    def collect(self) -> list[tuple[Task, Exception | None]]:
        return self._pool.collect()


_started: dict[str, Callable[..., object]] = {}
"""What a process of a cluster has prepared, by the folder and the sweep that it works for."""


def perform(start_worker: StartWorker, name: str, folder: str, task: Task) -> Exception | None:
    """One task in a process of a cluster, in the working directory of the command; returns its error.

    Args:
        start_worker: prepares the process, once per sweep.
        name: of the sweep.
        folder: working directory of the command, from which relative paths of recipes start.
        task: what to do.
    """
    try:
        if Path(folder).is_dir():
            os.chdir(folder)
        if name not in _started:
            _started.clear()
            _started[name] = start_worker(0, SilentProgress())
        _started[name](*task)
    except Exception as error:  # noqa: BLE001 - whatever it is, the command decides
        return told_of(error)
    return None


class RayEngine:
    """Tasks on a Ray cluster, which places them by the resources they ask for.

    Ray retries nothing: :class:`mllmu.parallel.schedule.UnitSchedule` tries again, and says so. All nodes must see
    the run folders, and the model, under the same paths.

    Args:
        address: of a running cluster, ``auto`` for the one of this machine; None starts one here that ends with the
            command.
        start_worker: prepares a process.
        progress: told what the cluster lacks.
    """

    room = 1 << 30

    def __init__(self, address: str | None, start_worker: StartWorker, progress: Progress) -> None:
        self.address, self.start_worker, self.progress = address, start_worker, progress
        self._pending: dict[Any, Task] = {}
        self._wanted: set[Resources] = set()

    def __enter__(self) -> Self:
        with needs_extra("mllmu sweep --engine ray", "ray"):
            import ray
        self._ray = ray
        try:
            ray.init(address=self.address or "local", log_to_driver=False, **({} if self.address else ALONE))
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ProcessError(
                f"--address {self.address}: no Ray cluster can be reached there ({one_line(error)}). Expected auto, "
                "or the address that 'ray start --head' printed; without it a cluster of this machine is started."
            ) from None
        self._name = ray.get_runtime_context().get_job_id()
        self._start = ray.put(self.start_worker)
        self._perform = ray.remote(max_retries=0)(perform)
        return self

    def __exit__(self, *_: object) -> None:
        for reference in self._pending:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()

    @property
    def gpus(self) -> float:
        """GPUs of the cluster as it is now."""
        return float(self._ray.cluster_resources().get("GPU", 0))

    def submit(self, task: Task, resources: Resources) -> None:
        self._note_what_lacks(resources)
        wanted: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
        if resources.memory:
            wanted["memory"] = resources.memory
        call = self._perform.options(name=" ".join(filter(None, task)), **wanted)
        self._pending[call.remote(self._start, self._name, str(Path.cwd()), task)] = task

    def collect(self) -> list[tuple[Task, Exception | None]]:
        ready, _ = self._ray.wait(list(self._pending), timeout=POLL_S)
        return [(self._pending.pop(reference), self._outcome(reference)) for reference in ready]

    def _outcome(self, reference: Any) -> Exception | None:
        try:
            error: Exception | None = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as bug:
            return RuntimeError(str(bug))
        except self._ray.exceptions.RayError as lost:
            return LostWorkerError(f"Ray: {one_line(lost)}.")
        return error

    def _note_what_lacks(self, resources: Resources) -> None:
        """Say it once where no node is large enough: Ray waits for one without a word."""
        if resources in self._wanted:
            return
        self._wanted.add(resources)
        wanted = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= number for name, number in wanted.items()) for node in nodes):
            asked = ", ".join(f"{name} {number:g}" for name, number in wanted.items() if number)
            self.progress.note(f"ray: no node has {asked} now; units wait until one joins the cluster")


class SlurmEngine:
    """Every task is a job of Slurm, through submitit, whose files are in a folder that all machines see.

    Args:
        folder: gets the scripts and logs of the jobs.
        options: of submitit's ``update_parameters``, e.g. ``slurm_partition``, ``timeout_min``.
        cluster: of submitit: None finds Slurm, ``local`` starts processes here.
    """

    room = 1 << 30

    def __init__(
        self, folder: Path, options: Mapping[str, Any], start_worker: StartWorker, *, cluster: str | None = None
    ) -> None:
        self.folder, self.options, self.start_worker, self.cluster = folder, options, start_worker, cluster
        self._pending: dict[Any, Task] = {}

    def __enter__(self) -> Self:
        with needs_extra("mllmu sweep --engine slurm", "slurm"):
            import submitit
        self._submitit = submitit
        self._executor = submitit.AutoExecutor(folder=str(self.folder), cluster=self.cluster)
        if self.cluster is None and self._executor.cluster != "slurm":
            raise ProcessError("--engine slurm: there is no Slurm here (no 'srun'). Start it on a login node.")
        return self

    def __exit__(self, *_: object) -> None:
        for job in self._pending:
            job.cancel()

    def submit(self, task: Task, resources: Resources) -> None:
        wanted: dict[str, Any] = {"name": "mllmu", "timeout_min": 24 * 60, "cpus_per_task": resources.cpus}
        wanted |= {"gpus_per_node": -int(-resources.gpus // 1)} if resources.gpus else {}
        wanted |= {"mem_gb": resources.memory / 2**30} if resources.memory else {}
        self._executor.update_parameters(**wanted | dict(self.options))
        job = self._executor.submit(perform, self.start_worker, str(self.folder), str(Path.cwd()), task)
        self._pending[job] = task

    def collect(self) -> list[tuple[Task, Exception | None]]:
        ended = [job for job in self._pending if job.done()]
        if not ended:
            time.sleep(POLL_S)
        return [(self._pending.pop(job), self._outcome(job)) for job in ended]

    def _outcome(self, job: Any) -> Exception | None:
        try:
            error: Exception | None = job.result()
        except (self._submitit.core.utils.UncompletedJobError, self._submitit.core.utils.FailedJobError) as lost:
            return LostWorkerError(f"Slurm: {one_line(lost)}.")
        return error
