"""One finished run for all tests that only look at it."""

from __future__ import annotations

from pathlib import Path

import mini_run
import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaVA; do not write into it."""
    return mini_run.make_base(tmp_path_factory.mktemp("mini_base"))


@pytest.fixture(scope="session")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; do not write into it."""
    return mini_run.run(base, tmp_path_factory.mktemp("finished") / "run")
