"""Promises of docs/architecture.md about the shape of the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_FILES, MOST_LINES = 25, 6000
"""Of the files between a recipe and a number."""


def test_public_class_names_are_unique_in_the_package() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "mllmu").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_files_and_functions_are_short() -> None:
    for path in sorted((ROOT / "mllmu").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 80, f"{path}: {node.name}"


def test_the_reading_path_is_short_and_as_listed() -> None:
    command = [sys.executable, "-m", "tools.reading_path"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    lines = {path: int(count) for count, path in re.findall(r"(?m)^ *(\d+)  (mllmu/\S+)$", done.stdout)}
    assert 0 < len(lines) <= MOST_FILES and sum(lines.values()) <= MOST_LINES, done.stdout
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = {f"mllmu/{name}": int(count) for name, count in re.findall(r"(?m)^\| `([\w/]+\.py)` \| (\d+) \|", text)}
    assert listed.keys() == lines.keys(), "python -m tools.reading_path prints the list for docs/architecture.md"
    assert sum(listed.values()) == pytest.approx(sum(lines.values()), rel=0.05)
