"""Runs that are killed at any moment, or find no space: what is finished stays, and the end is the same bytes."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attempts import ALONE, BUG, CLEAR, DONE, LAUNCHED, OUTLIVES_S, STOPPED, WORKERS, Attempt, Mode, results, units
from rounds import Fuzz

KILLS_PER_ROUND, FULL_DISKS_PER_ROUND = 0.07, 0.02
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
Undisturbed = Callable[[Mode], tuple[dict[str, str], float]]


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The results of a run that nothing happened to, and its seconds."""

    @functools.cache
    def made(mode: Mode) -> tuple[dict[str, str], float]:
        root, began = tmp_path_factory.mktemp("undisturbed") / "run", time.monotonic()
        return finish(base, root, mode), time.monotonic() - began

    return made


def finish(base: Path, root: Path, mode: Mode = ALONE) -> dict[str, str]:
    codes = Attempt(base, root, mode).ends()
    assert codes == {DONE}, (root.parent / "error.txt").read_text()
    assert not [path for path in root.rglob(".*") if path.suffix in (".tmp", ".building", ".old")], "left over"
    return results(root)


def kill_until_done(mode: Mode, fuzz: Fuzz, base: Path, undisturbed: Undisturbed, folder: Path) -> None:
    """Kill a run at random moments until it is finished, and then the next one."""
    root, number = folder / "0" / "run", 0
    whole, seconds = undisturbed(mode)
    for rng in fuzz.rounds(KILLS_PER_ROUND):
        root.parent.mkdir(exist_ok=True)
        how, after = rng.choice(SIGNALS), rng.uniform(0, seconds / 3)
        with fuzz.attempt((how.name, after)):
            before = units(root)
            attempt = Attempt(base, root, mode)
            if attempt.goes_on(after):
                attempt.kill(rng, how)
            codes = attempt.ends(OUTLIVES_S)
            by_launcher = {CLEAR, -signal.SIGTERM} if mode.launched > 1 else set[int]()
            assert codes <= {DONE, STOPPED, -how} | by_launcher, codes
            if changed := {*before.items()} - {*units(root).items()}:
                fuzz.silent(f"finished units are lost or others: {sorted(changed)}", how.name)
            if codes == {DONE}:
                if results(root) != whole:
                    fuzz.silent("other bytes than those of a run that nothing happened to", how.name)
                number += 1
                root = folder / str(number) / "run"
    if root.exists() and finish(base, root, mode) != whole:
        fuzz.silent("other bytes than those of a run that nothing happened to", "the last one")


def test_kills_of_a_run(fuzz: Fuzz, base: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    kill_until_done(ALONE, fuzz, base, undisturbed, tmp_path)


@pytest.mark.slow
def test_kills_of_a_run_with_two_workers(fuzz: Fuzz, base: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert undisturbed(WORKERS)[0] == undisturbed(ALONE)[0]
    kill_until_done(WORKERS, fuzz, base, undisturbed, tmp_path)


@pytest.mark.slow
def test_kills_of_a_run_in_two_processes(fuzz: Fuzz, base: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    kill_until_done(LAUNCHED, fuzz, base, undisturbed, tmp_path)


def test_disks_that_are_full(fuzz: Fuzz, base: Path, undisturbed: Undisturbed, tmp_path: Path) -> None:
    for number, rng in enumerate(fuzz.rounds(FULL_DISKS_PER_ROUND)):
        root, most = tmp_path / str(number) / "run", int(10 ** rng.uniform(2.5, 5))
        root.parent.mkdir()
        with fuzz.attempt(f"{most} bytes"):
            codes = Attempt(base, root, most_bytes=most).ends()
            assert codes <= {DONE, CLEAR}, "a traceback" if BUG in codes else codes
            if finish(base, root) != undisturbed(ALONE)[0]:
                fuzz.silent("other bytes than those of a run that always had space", most)
