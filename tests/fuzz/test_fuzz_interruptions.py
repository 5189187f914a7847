"""Runs that are killed at any moment, or find no space: what is finished stays, and the end is the same bytes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from attempts import BUG, CLEAR, DONE, STOPPED, results, start, units
from rounds import Fuzz

KILLS_PER_ROUND, FULL_DISKS_PER_ROUND = 0.02, 0.01
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope="module")
def expected(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """The results of a run that nothing happened to, and its seconds."""
    root, began = tmp_path_factory.mktemp("undisturbed") / "run", time.monotonic()
    process = start(base, root)
    process.join()
    assert process.exitcode == DONE, (root.parent / "error.txt").read_text()
    return results(root), time.monotonic() - began


def finish(base: Path, root: Path) -> dict[str, str]:
    process = start(base, root)
    process.join()
    assert process.exitcode == DONE, (root.parent / "error.txt").read_text()
    assert not [path for path in root.rglob(".*") if path.suffix in (".tmp", ".building", ".old")], "left over"
    return results(root)


def test_kills_of_a_run(fuzz: Fuzz, base: Path, expected: tuple[dict[str, str], float], tmp_path: Path) -> None:
    root, number = tmp_path / "0" / "run", 0
    whole, seconds = expected
    for rng in fuzz.rounds(KILLS_PER_ROUND):
        root.parent.mkdir(exist_ok=True)
        how, after = rng.choice(SIGNALS), rng.uniform(0, seconds / 3)
        with fuzz.attempt((how.name, after)):
            before = units(root)
            process = start(base, root)
            process.join(after)
            if process.is_alive():
                os.kill(process.pid or 0, how)
            process.join()
            assert process.exitcode in (DONE, STOPPED, -how), process.exitcode
            if {name: units(root).get(name) for name in before} != before:
                fuzz.silent("a finished unit is lost or another one", how.name)
            if process.exitcode == DONE:
                if results(root) != whole:
                    fuzz.silent("other bytes than those of a run that nothing happened to", how.name)
                number += 1
                root = tmp_path / str(number) / "run"
    if root.exists() and finish(base, root) != whole:
        fuzz.silent("other bytes than those of a run that nothing happened to", "the last one")


def test_disks_that_are_full(fuzz: Fuzz, base: Path, expected: tuple[dict[str, str], float], tmp_path: Path) -> None:
    for number, rng in enumerate(fuzz.rounds(FULL_DISKS_PER_ROUND)):
        root, most = tmp_path / str(number) / "run", int(10 ** rng.uniform(2.5, 5))
        root.parent.mkdir()
        with fuzz.attempt(f"{most} bytes"):
            process = start(base, root, most_bytes=most)
            process.join()
            assert process.exitcode in (DONE, CLEAR), "a traceback" if process.exitcode == BUG else process.exitcode
            if finish(base, root) != expected[0]:
                fuzz.silent("other bytes than those of a run that always had space", most)
