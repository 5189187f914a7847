"""The frame of the fuzz tests: the rounds of a test, and the table of all tests at the end.

``pytest tests/fuzz`` takes a few rounds per test, ``--fuzz-rounds 10000`` as many as one likes, ``--fuzz-seed`` others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rounds import OUTCOMES, Fuzz

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaVA; do not write into it."""
    import mini_run  # torch is imported only by tests that need a model

    return mini_run.make_base(tmp_path_factory.mktemp("fuzz_base"))


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Fuzz]:
    """The rounds of this test; see :class:`Fuzz`."""
    made = Fuzz(request.node.name, request.config.getoption("--fuzz-rounds"), request.config.getoption("--fuzz-seed"))
    yield made
    record_property("fuzz", {outcome: made.counts[outcome] for outcome in OUTCOMES})
    if made.faults:
        pytest.fail(f"{len(made.faults)} faults:\n" + "\n".join(made.faults[:10]), pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line for each fuzz test: how many inputs were tried, and what came of them."""
    found = {}
    for report in terminalreporter.stats.values():
        for one in report:
            if counts := dict(getattr(one, "user_properties", ())).get("fuzz"):
                found[one.nodeid] = counts
    if not found:
        return
    terminalreporter.section(f"inputs tried (seed {config.getoption('--fuzz-seed')})")
    terminalreporter.write_line("| input | " + " | ".join(OUTCOMES) + " |")
    terminalreporter.write_line("|---" * (len(OUTCOMES) + 1) + "|")
    for node, counts in sorted(found.items()):
        name = node.partition("::")[2].removeprefix("test_").replace("_", " ")
        terminalreporter.write_line(f"| {name} | " + " | ".join(str(counts[one]) for one in OUTCOMES) + " |")
