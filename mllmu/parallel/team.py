"""Several processes of one run: process 0 leads, the others follow.

``torchrun`` and ``accelerate launch`` start the same command several times. Process 0 goes through the run alone, and
it alone writes to the run folder. Where work can be divided it announces a task (:func:`share`): a function of a module
and its arguments. The others do nothing but wait for tasks and take part in them, so whatever is not shared is done
once, by the leader. Tasks and their ends travel in a group of their own, in which waiting is no fault.

Without a launcher there is one process, and nothing here does anything; torch is not even imported.
"""

import atexit
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from mllmu.core.errors import MllmuError, ProcessError, one_line
from mllmu.core.process import count, leads, local_rank, rank

PATIENCE = timedelta(days=7)
"""How long a follower waits for the next task, while the leader does what is not shared."""
STUCK = timedelta(hours=1)
"""How long the processes of one task may wait for each other."""
GRACE_S = 3.0
"""Seconds a follower gives the leader to say the same before it reports an error itself."""
LOST = ("gloo", "nccl", "connection", "socket", "process group")
"""Words of the errors that a process sees when another one is gone."""


class SharedTask(NamedTuple):
    """What all processes of a run do together; without a function it is the end of the run."""

    run: str
    function: Callable[..., None] | None
    arguments: dict[str, Any]


def check_launch() -> None:
    """Refuse what accelerate's config file may ask for and a run cannot do.

    Raises:
        ProcessError: DeepSpeed, Megatron, or a precision other than the recipe's.
    """
    for name, what in (("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM")):
        if os.environ.get(name, "false").lower() == "true":
            raise ProcessError(
                f"accelerate's config file: {what} is not supported. FSDP2 spreads weights as well "
                "(distributed_type: FSDP with fsdp_version: 2, see docs/how-to/distributed.md); MULTI_GPU is for "
                "models that fit one GPU."
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in {"no", "bf16"}:
        raise ProcessError(
            f"accelerate's config file: mixed_precision: {precision}, but precision is the recipe's (model.dtype: "
            "auto is bfloat16 on a GPU). Set mixed_precision: 'no'."
        )


class Team:
    """The connection to the other processes; made when first needed."""

    def __init__(self) -> None:
        import torch
        from torch import distributed as dist

        check_launch()
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(local_rank())
        store, number, size = next(dist.rendezvous("env://", timeout=STUCK))  # type: ignore[attr-defined]
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=STUCK)
        self._control = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._notes = dist.PrefixStore("mllmu", store)  # type: ignore[attr-defined]
        self.busy = False
        self.run = ""
        self._early: SharedTask | None = None
        atexit.register(self._leave)

    def send(self, function: Callable[..., None] | None, arguments: dict[str, Any]) -> None:
        """Leader: give all followers a task of the run, or its end.

        Raises:
            ProcessError: a follower is gone, or has failed.
        """
        from torch import distributed as dist

        try:
            dist.broadcast_object_list([SharedTask(self.run, function, arguments)], 0, group=self._control)
        except RuntimeError as error:
            raise ProcessError(self._obituary(error)) from None

    def receive(self) -> SharedTask | None:
        """Follower: wait for the next task of the run; None if another run has begun."""
        from torch import distributed as dist

        tasks = [self._early]
        try:
            if not self._early:
                dist.broadcast_object_list(tasks, 0, group=self._control)
        except RuntimeError:  # the leader is gone, and has said why
            raise SystemExit(2) from None
        task = tasks[0]
        self._early = task if task and task.run != self.run else None
        return None if self._early else task

    def wait(self) -> None:
        """Go on when all processes have come here."""
        from torch import distributed as dist

        dist.barrier(group=self._control)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A task; an error in it ends all processes, and is told once.

        Raises:
            ProcessError: another process has failed, or is gone.
        """
        self.busy = True
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            self._tell(error)
            raise
        self.busy = False

    def _tell(self, error: BaseException) -> None:
        """Leave a note of the own error; or, if the others are gone, raise what they have noted."""
        lost = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST)
        with suppress(RuntimeError):  # the place of the notes may be gone too
            if not lost:
                self._notes.set(str(rank()), str(error))
            if not leads() and (self._leader_noted() or lost):
                raise SystemExit(2) from None
        if lost:
            raise ProcessError(self._obituary(error)) from None
        if not leads() and isinstance(error, MllmuError):
            raise ProcessError(f"process {rank()}: {error}") from None

    def _leave(self) -> None:
        from torch import distributed as dist

        if not self.busy:
            dist.destroy_process_group()

    def _leader_noted(self) -> bool:
        """Whether the leader leaves a note within the time of grace."""
        until = time.monotonic() + GRACE_S
        while not (noted := self._notes.check(["0"])) and time.monotonic() < until:
            time.sleep(0.05)
        return bool(noted)

    def _obituary(self, error: BaseException) -> str:
        with suppress(RuntimeError):
            for number in range(1, count()):
                if self._notes.check([str(number)]):
                    return f"process {number} has failed: {self._notes.get(str(number)).decode()}"
        return (
            f"a process of this run is gone ({one_line(error)}). It may have been killed, or have "
            "run out of memory; what it said is above. The same command continues where it stopped."
        )


@functools.cache
def team() -> Team:
    """The connection of this process; to be asked for only where there are several."""
    return Team()


@contextmanager
def leading(run: Path) -> Iterator[None]:
    """Around the leader's work on a run folder: lets the followers go at its end, whatever the end is.

    Raises:
        ProcessError: the followers have ended in a task of an earlier run.
    """
    if count() == 1:
        yield
        return
    own = team()
    if own.busy:
        raise ProcessError("the other processes have ended with the error before. The same command goes on.")
    own.run = str(run)
    try:
        yield
    finally:
        if not own.busy:
            with suppress(ProcessError):  # those who are gone need not be told
                own.send(None, {})


def share(function: Callable[..., None], owner: Any, arguments: dict[str, Any]) -> None:
    """Leader: have all processes call ``function(owner, **arguments)`` together, each with an owner of its own.

    Args:
        function: of a module; the followers find it by its name.
        owner: not sent.
        arguments: plain values: numbers, texts, paths, records, sequences of them.
    """
    team().send(function, arguments)
    with team().working():
        function(owner, **arguments)


def follow(owner: Any, run: Path) -> None:
    """Follower: take part in the leader's work on a run folder until it ends."""
    team().run = str(run)
    while (task := team().receive()) and task.function:
        with team().working():
            task.function(owner, **task.arguments)


def wait_for_all() -> None:
    """Inside a task: go on when all processes have come here."""
    if count() > 1:
        team().wait()


def own_share(weights: Sequence[float]) -> list[int]:
    """Places of the items that this process takes, of items with such weights: heavy ones first, to the least loaded.

    >>> own_share([1.0, 5.0, 2.0])
    [0, 1, 2]
    """
    loads = [0.0] * count()
    owners = {}
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        owners[place] = loads.index(min(loads))
        loads[owners[place]] += weights[place]
    return [place for place in range(len(weights)) if owners[place] == rank()]


def only_alone(what: str) -> None:
    """Refuse several processes for what is made for one.

    Raises:
        ProcessError: there are several; the followers leave without a word.
    """
    if not leads():
        raise SystemExit(2)
    if count() > 1:
        raise ProcessError(
            f"{what} works in one process, and {count()} were started. Leave out torchrun or accelerate launch; "
            "'mllmu run' and its stages can use several."
        )
