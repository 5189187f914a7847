"""Odd command lines: each ends with exit code 0, or 2 and a message."""

from __future__ import annotations

from pathlib import Path

import mutators
import pytest
from rounds import Fuzz
from typer.testing import CliRunner

from mllmu.cli.app import app

RECIPES = Path(__file__).parents[2] / "recipes"
PACKAGED = {path.stem for path in RECIPES.glob("*.yaml")}
SMOKE = str(RECIPES / "smoke.yaml")
LINES = (
    ["validate", SMOKE],
    ["validate", SMOKE, "--set", "finetune.epochs=3", "--show"],
    ["ls"],
    ["ls", "methods"],
    ["run", "none.yaml", "--set", "seed=1", "--out", "OUT", "--only", "data"],
    ["report", "none.yaml", "--out", "OUT", "--force"],
    ["evaluate", "none.yaml", "--out", "OUT"],
    ["data", "none.yaml", "--out", "OUT"],
    ["data", "review", "OUT"],
    ["tune", "none.yaml", "--trials", "3"],
    ["pool", "OUT", "OUT"],
    ["trust", "none.yaml"],
    ["layers", "none.yaml"],
    ["judge", "OUT"],
    ["export-model", "OUT", "target", "OUT/new"],
)
"""Lines whose every way out is quick: a recipe that is only checked, or none at all."""


def test_command_lines(fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    for rng in fuzz.rounds(2):
        line = mutators.tree(rng, rng.choice(LINES))
        arguments = [str(part).encode(errors="replace").decode().replace("\0", "") for part in line]
        if PACKAGED & {*arguments[1:]}:
            continue  # "trust trust" is no odd line, and trains twenty models
        with fuzz.attempt(arguments):
            done = runner.invoke(app, arguments)
            if done.exception and not isinstance(done.exception, SystemExit):
                raise done.exception
            assert done.exit_code in {0, 2}, done.output
            assert done.exit_code == 0 or done.output.strip(), "an exit without a message"
