"""One tiny random model per family, built when it is first asked for, and loaded by its path as from the hub."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mllmu.core import plugins

if TYPE_CHECKING:
    from mllmu.models.loading import Loaded

NAMES = plugins.names("families")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a family's model, by its name."""
    from helpers_families import BUILD, build  # torch is imported only by tests that need a model

    @cache
    def base(name: str) -> Path:
        kinds = (name, *plugins.find("families", name).model_types)
        kind = next((k for k in kinds if k in BUILD), None)
        assert kind, f"no tiny model for the family '{name}': add one to helpers_families.BUILD"
        return build(kind, tmp_path_factory.mktemp(kind))

    return base


@pytest.fixture(scope="session")
def ready(bases: Any) -> Any:
    """Every model once, for tests that only read it."""
    from helpers_models import load_ref

    return cache(lambda name: load_ref(bases(name)))


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, ready: Any, bases: Any) -> tuple[Loaded, Path]:
    """A model of the family and its folder; not to be changed."""
    return ready(request.param), bases(request.param)


@pytest.fixture(params=NAMES)
def fresh(request: pytest.FixtureRequest, ready: Any, bases: Any) -> tuple[Loaded, Path]:
    """The same for tests that train it."""
    from helpers_models import load_ref

    base = bases(request.param)
    return load_ref(base, encoder=ready(request.param).encoder), base
