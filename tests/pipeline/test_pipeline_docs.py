"""Commands of the documentation, carried out word for word, page by page.

What needs a GPU, a hub, an endpoint, more data than a page has, or many minutes is not: see ``NOT_HERE``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
QUICK = ("ls", "init", "validate", "--version")
"""Commands that need no run and take seconds."""
NOT_HERE = (
    "demo",
    "paper_grid",
    "llava",
    "published",
    "mllmu_bench",
    "people",
    "my.yaml",
    "RECIPE",
    "COPY",
    "/models/",
)
"""Words of commands on recipes of minutes, on data that a page does not make, or with a placeholder."""
PAGES = ("your-own-metric", "your-own-summary", "your-own-task", "your-own-method", "first-run")
"""Tutorials whose other commands are all carried out."""


def commands(page: Path) -> list[list[str]]:
    """The ``mllmu`` commands of a page, without what stands before them (variables of the environment, a path)."""
    found = []
    for block in re.findall(r"(?ms)^```sh\n(.*?)^```", page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:
                words = words[1:]
            if words and words[0].rpartition("/")[2] == "mllmu":
                found.append(words[1:])
    return found


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the recipes and examples of a clone."""
    for name in ("recipes", "examples", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "runs/here").mkdir(parents=True)
    shutil.copyfile(ROOT / "recipes/smoke.yaml", tmp_path / "runs/here/recipe.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    return tmp_path


def every_quick_command() -> list[list[str]]:
    pages = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    found = [words for page in pages if page.parent.name != "reference" for words in commands(page)]
    return [
        words for words in found if words[0] in QUICK and not {"llava", "paper_grid"} & {*" ".join(words).split("/")}
    ]


@pytest.mark.parametrize("words", [pytest.param(w, id=" ".join(w)[:60]) for w in every_quick_command()])
def test_a_command_that_needs_no_run(clone: Path, words: list[str]) -> None:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and done.output.strip(), done.output


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_tutorial_in_their_order(clone: Path, page: str) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    carried_out = 0
    for words in commands(DOCS / "tutorials" / f"{page}.md"):
        if any(part in " ".join(words) for part in NOT_HERE):
            continue
        call = [sys.executable, "-m", "mllmu", *words]
        done = subprocess.run(call, cwd=clone, env=environment, capture_output=True, encoding="utf-8", timeout=1200)
        assert done.returncode == 0, f"mllmu {' '.join(words)}\n{done.stderr[-2000:]}"
        carried_out += 1
    assert carried_out
