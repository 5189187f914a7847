"""Fixtures shared by all tests. Models are built on the spot; nothing is downloaded."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from helpers_attacks import World

    from mllmu.models.loading import Loaded


# A shell's background jobs ignore Ctrl-C and hand that down; the commands under test are started as if by hand.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the fuzz tests, see tests/fuzz/conftest.py."""
    parser.addoption("--fuzz-rounds", type=int, default=20, help="inputs per fuzz test (20)")
    parser.addoption("--fuzz-seed", type=int, default=0, help="seed of the fuzz tests (0)")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random LLaVA with its processor and three images; do not write into it."""
    from helpers_models import make_base  # torch is imported only by tests that need a model

    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def loaded(tiny_base: Path) -> Loaded:
    """The random LLaVA, fresh for each test, which may train it."""
    from helpers_models import load_ref

    return load_ref(tiny_base)


@pytest.fixture(scope="session")
def attacked_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A target, a retain_model, and a model that is weak to attacks; do not teach them anything."""
    from helpers_attacks import World

    return World(tmp_path_factory.mktemp("world") / "base")


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asking a server on loopback needs: the key, no proxy in between, and short pauses before a second try."""
    from llm_server import KEY

    from mllmu.llm import client

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.01)
