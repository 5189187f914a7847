"""What ``from mllmu import ...`` offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mllmu

ROOT = Path(__file__).parents[2]


def test_every_public_name_exists() -> None:
    for name in mllmu.__all__:
        assert getattr(mllmu, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        mllmu.Pipelin  # noqa: B018


def test_importing_the_package_leaves_torch_alone() -> None:
    code = "import sys, mllmu; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_overrides_of_load_recipe_are_those_of_the_command_line() -> None:
    assert mllmu.load_recipe(ROOT / "recipes/demo.yaml", "finetune.epochs=7").finetune.epochs == 7


def test_every_recipe_in_the_repository_is_valid() -> None:
    found = sorted((ROOT / "recipes").glob("*.yaml"))
    assert len(found) >= 4
    for path in found:
        assert mllmu.load_recipe(path).name
