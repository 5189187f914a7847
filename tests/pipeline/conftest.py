"""One finished run for all tests that only look at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mini_run
import pytest
from mini_request import Place, copy_of, interrupted, quick


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaVA; do not write into it."""
    return mini_run.make_base(tmp_path_factory.mktemp("mini_base"))


@pytest.fixture(scope="session")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; do not write into it."""
    return mini_run.run(base, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def done(base: Path, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A folder with one request that was stopped once and then finished; do not write into it."""
    pytest.importorskip("cryptography", reason="needs the extra 'sign'")
    place = Place(tmp_path_factory.mktemp("request"), base, finished)
    with quick():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mllmu.requests.certificate.sentences", interrupted)
            with pytest.raises(KeyboardInterrupt):
                place.forget()
        place.stopped = mini_run.unit_times(place.out / "r001")
        place.outcome = place.forget()
    return place


@pytest.fixture
def copy(done: Place, tmp_path: Path) -> Place:
    """The finished request in a folder that a test may change."""
    return copy_of(done, tmp_path / "out")


@pytest.fixture(scope="module")
def quickly() -> Iterator[None]:
    """Requests in this module take little time, see :func:`mini_request.quick`."""
    with quick():
        yield
