"""Attempts at a small run, each in a forked process, which costs no start: killed, stopped, without space."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import warnings
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import mini_run

from mllmu.cli.failures import explanation
from mllmu.core.lock import held

DONE, CLEAR, BUG, STOPPED = 0, 2, 3, 130
"""How an attempt ends by itself: finished, with a message for the user, with a traceback, or by Ctrl-C."""
CAREFUL = ("finetune.checkpoint_every_s=1e-9", "unlearn.methods=[npo, prompting]")
RESULTS = ("models/**/*.safetensors", "eval/*/metrics.json", "eval/*/*/responses/responses.jsonl", "data/**/*.png")


def start(base: Path, root: Path, *, most_bytes: int = 0) -> BaseProcess:
    """Begin, or go on with, the run in a process; with ``most_bytes`` no file can become larger, as on a full disk."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = get_context("fork").Process(target=_attempt, args=(base, root, most_bytes))
        process.start()
    return process


def _attempt(base: Path, root: Path, most_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if most_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        with held(root):
            mini_run.run(base, root, *CAREFUL, only="score")
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
