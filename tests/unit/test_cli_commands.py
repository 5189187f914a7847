"""The commands that need no model, each as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mllmu.cli.runs import expected
from mllmu.config.load import parse


def mllmu(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "mllmu", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=120)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("name: small\nfinetune:\n  epochs: 2\n", encoding="utf-8")
    return path


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """The only line on stderr; checks that there is no other and that the exit code says 'user error'."""
    lines = result.stderr.splitlines()
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def test_help_names_every_command_and_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom mllmu.cli.app import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'pyarrow', 'PIL', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "COLUMNS": "160"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    for command in [
        "run",
        "validate",
        "data",
        "finetune",
        "unlearn",
        "evaluate",
        "score",
        "report",
        "ls",
    ]:
        assert f" {command} " in result.stdout


def test_version_is_that_of_the_package() -> None:
    from mllmu.version import __version__

    assert mllmu("--version").stdout == f"mllmu {__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [(["rnu", "x"], "run"), (["run", "x.yaml", "--onyl", "data"], "--only")])
def test_typing_error_in_a_command_or_option_is_answered_with_the_nearest_one(typed: list[str], meant: str) -> None:
    result = mllmu(*typed)
    assert result.returncode == 2
    assert meant in result.stderr.split("Error")[-1]


def test_ls_lists_every_kind() -> None:
    from mllmu.core.plugins import KINDS

    result = mllmu("ls")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [*KINDS, "settings", "recipes", "runs"]


def test_ls_kind_lists_every_file_with_its_first_docstring_line() -> None:
    from mllmu.core.plugins import find, names

    result = mllmu("ls", "tasks")
    listed = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert {name: line.strip() for name, line in listed.items()} == {
        n: find("tasks", n).summary() for n in names("tasks")
    }


def test_ls_name_shows_docstring_source_and_every_setting_with_its_bounds() -> None:
    result = mllmu("ls", "sources", "synthetic")
    assert "no two share a name" in result.stdout
    assert "Source: " in result.stdout and "arXiv:2410.22108" in result.stdout
    assert "  num_people: int, >= 1, <= 100000; default 500\n" in result.stdout


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(["ls", "metric"], "'metrics'"), (["ls", "nothing", "x"], "Kinds: "), (["ls", "metrics", "blue"], "'bleu'")],
)
def test_unknown_plugin_is_one_line_with_the_nearest_one(typed: list[str], meant: str) -> None:
    assert meant in error_line(mllmu(*typed))


def test_validate_says_valid_and_show_prints_a_recipe_that_is_valid_again(recipe: Path) -> None:
    assert mllmu("validate", str(recipe)).stdout == "valid\n"
    shown = mllmu("validate", str(recipe), "--show", "--set", "finetune.lora.rank=8").stdout
    first, rest = shown.split("\n", 1)
    resolved = yaml.safe_load(rest)
    assert first == "valid"
    assert (resolved["finetune"]["epochs"], resolved["finetune"]["lora"]["rank"], resolved["seed"]) == (2, 8, 0)
    recipe.write_text(rest, encoding="utf-8")
    assert mllmu("validate", str(recipe)).stdout == "valid\n"


def test_wrong_setting_is_one_line_with_the_nearest_one_and_nothing_is_written(recipe: Path, tmp_path: Path) -> None:
    line = error_line(mllmu("run", str(recipe), "--set", "finetune.epoch=3", cwd=tmp_path))
    assert "finetune.epoch" in line and "Did you mean 'epochs'?" in line
    assert [p.name for p in tmp_path.iterdir()] == ["small.yaml"]


def test_markup_and_terminal_codes_in_user_text_are_shown_not_obeyed(tmp_path: Path) -> None:
    assert "[/red]x.yaml" in error_line(mllmu("validate", "[/red]x.yaml"))
    path = tmp_path / "codes.yaml"
    path.write_text('"\\e[31mname": 1\n', encoding="utf-8")
    assert "\\x1b[31mname" in error_line(mllmu("validate", str(path)))


def test_recipe_named_like_a_parent_folder_is_refused_without_out(tmp_path: Path) -> None:
    path = tmp_path / "up.yaml"
    path.write_text("name: '..'\n", encoding="utf-8")
    assert "no folder name" in error_line(mllmu("run", str(path), cwd=tmp_path))


def test_export_options_are_checked_before_any_work(recipe: Path, tmp_path: Path) -> None:
    assert "'mllmu-bench'" in error_line(mllmu("data", str(recipe), "--export", "mllmubench", cwd=tmp_path))
    assert "--export-dir" in error_line(mllmu("data", str(recipe), "--export", "mllmu-bench", cwd=tmp_path))


def test_status_lists_the_ratios_that_are_not_begun(tmp_path: Path) -> None:
    recipe = parse({"name": "x", "data": {"splits": {"forget_ratios": [0.1, 0.05, 0.2]}}})
    (tmp_path / "eval/forget_10").mkdir(parents=True)
    (tmp_path / "eval/forget_7.5").mkdir()
    assert list(expected(recipe, tmp_path)) == ["5", "7.5", "10", "20"]
    named = parse({"name": "x", "unlearn": {"forget": {"people": ["001"]}}})
    assert list(expected(named, tmp_path)) == ["7.5", "10"], "the people who are named may be another share"
