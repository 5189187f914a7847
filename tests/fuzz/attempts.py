"""Attempts at a small run, each in a forked process, which costs no start: killed, stopped, without space."""

from __future__ import annotations

import hashlib
import math
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, get_context
from pathlib import Path
from random import Random
from typing import NamedTuple

import mini_run

from mllmu.cli.failures import explanation
from mllmu.core.lock import held

DONE, CLEAR, BUG, STOPPED = 0, 2, 3, 130
"""How an attempt ends by itself: finished, with a message for the user, with a traceback, or by Ctrl-C."""
CAREFUL = ("finetune.checkpoint_every_s=1e-9", "unlearn.methods=[npo, prompting]")
RESULTS = ("models/**/*.safetensors", "eval/*/metrics.json", "eval/*/*/responses/responses.jsonl", "data/**/*.png")


class Mode(NamedTuple):
    """How a run uses processes: how many a launcher starts, and its settings."""

    launched: int = 1
    settings: tuple[str, ...] = ()


ALONE, WORKERS, LAUNCHED = Mode(), Mode(settings=("workers=2",)), Mode(launched=2)
GRACE_S = 20.0
"""Seconds in which a process says by itself that its fellow is gone, before the launcher ends it."""
OUTLIVES_S = 300.0
"""Seconds after which a process that lost its fellow, or a worker whose run was killed, is said to outlive it."""


class Attempt:
    """A run that begins, or goes on, in processes of a session of its own; with ``most_bytes`` no file can become
    larger, as on a full disk."""

    def __init__(self, base: Path, root: Path, mode: Mode = ALONE, *, most_bytes: int = 0) -> None:
        self.processes = []
        for launch in mini_run.launches(mode.launched) if mode.launched > 1 else [{}]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                forked = get_context("fork")
                ready = forked.Event()
                process = forked.Process(
                    target=_attempt, args=(base, root, mode.settings, launch, most_bytes, ready.set)
                )
                process.start()
                ready.wait()
            self.processes.append(process)

    def goes_on(self, seconds: float) -> bool:
        """Wait; false when all processes have ended by then."""
        until = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, until - time.monotonic()))
        return any(process.is_alive() for process in self.processes)

    def kill(self, rng: Random, how: signal.Signals) -> None:
        """Send a signal: Ctrl-C to all of a terminal, any other to one process or, of a launch, sometimes to both."""
        chosen = self.processes if rng.random() < 0.3 else [rng.choice(self.processes)]
        for process in chosen:
            if process.is_alive():
                with suppress(ProcessLookupError):
                    (os.killpg if how == signal.SIGINT else os.kill)(process.pid or 0, how)

    def ends(self, seconds: float | None = None) -> set[int | None]:
        """The exit codes when all processes, and what they started, are gone; None for one that outlives the others."""
        until = time.monotonic() + (seconds or math.inf)
        if len(self.processes) > 1:
            self._launcher_ends_all()
        for process in self.processes:
            process.join(None if seconds is None else max(0.0, until - time.monotonic()))
        codes = {process.exitcode for process in self.processes}
        while any(mini_run.session_lives(process.pid or 0) for process in self.processes):
            if time.monotonic() > until:
                codes.add(None)
                for process in self.processes:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid or 0, signal.SIGKILL)
            time.sleep(0.02)
        return codes

    def _launcher_ends_all(self) -> None:
        """As torchrun does, only later: end all soon after one has failed, such as those who still wait for it."""
        ended = connection.wait([process.sentinel for process in self.processes])
        for process in self.processes:
            if process.sentinel in ended:
                process.join()  # its exit code comes a moment after its end
        for process in self.processes if any(process.exitcode for process in self.processes) else ():
            process.join(GRACE_S)
            process.terminate()


def _attempt(
    base: Path,
    root: Path,
    settings: tuple[str, ...],
    launch: dict[str, str],
    most_bytes: int,
    ready: Callable[[], None],
) -> None:
    os.setsid()
    os.environ |= launch
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if most_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        ready()
        with held(root):
            mini_run.run(base, root, *CAREFUL, *settings)
        code = DONE
    except KeyboardInterrupt:
        code = STOPPED
    except Exception as error:  # noqa: BLE001
        code = CLEAR if explanation(error) else BUG
        (root.parent / "error.txt").write_text(repr(error)) if not most_bytes else None
    os._exit(code)


def results(root: Path) -> dict[str, str]:
    """SHA-256 of everything that must be the same however often a run was interrupted."""
    found = {name: one for pattern in RESULTS for name, one in mini_run.fingerprints(root, pattern).items()}
    return {name: one for name, one in found.items() if ".building/" not in name}


def units(root: Path) -> dict[str, str]:
    """The finished units of a run folder, by the digest of their records."""
    return {
        path.parent.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("unit.json")
        if not path.parent.name.startswith(".")
    }
