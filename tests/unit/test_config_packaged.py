"""Packaged recipes by name, folders to start from, and the wheel that carries them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mllmu import load_recipe
from mllmu.cli.app import app
from mllmu.config.packaged import first_comment, recipe_file, recipes
from mllmu.core.errors import RecipeError
from mllmu.explorer.site import STATIC

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["smoke", "all-methods", "all_methods", "paper_grid.yaml"])
def test_a_name_is_a_packaged_recipe(name: str) -> None:
    assert recipe_file(Path(name)).parent == ROOT / "recipes"


def test_a_file_comes_before_a_packaged_recipe_of_its_name(elsewhere: Path) -> None:
    (elsewhere / "smoke.yaml").write_text("name: mine\n", encoding="utf-8")
    assert load_recipe("smoke.yaml").name == "mine"
    assert load_recipe("smoke").name == "smoke"


@pytest.mark.parametrize("name", ["smok", "./smok", "recipes/smok.yaml"])
def test_an_unknown_name_or_path_says_what_there_is(name: str) -> None:
    with pytest.raises(RecipeError, match=r"no such recipe.*Did you mean 'smoke'\?.*mllmu ls recipes"):
        load_recipe(name)


def test_a_path_is_never_taken_for_a_name() -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        recipe_file(Path("other/smoke.yaml"))


def test_every_recipe_says_what_it_is_and_is_listed() -> None:
    listing = CliRunner().invoke(app, ["ls", "recipes"], env={"COLUMNS": "300"}).output
    assert recipes()
    for name, path in recipes().items():
        assert len(first_comment(path)) > 15, name
        assert name in listing and first_comment(path) in listing


def test_ls_recipes_lists_one_by_its_name() -> None:
    done = CliRunner().invoke(app, ["ls", "recipes", "trust"])
    assert done.exit_code == 0 and "demo" not in done.output


@pytest.mark.parametrize("name", recipes())
def test_init_makes_a_folder_whose_files_are_there(name: str, elsewhere: Path) -> None:
    done = CliRunner().invoke(app, ["init", "start", "--recipe", name])
    assert done.exit_code == 0, done.output
    made = {path.relative_to(elsewhere / "start").as_posix() for path in (elsewhere / "start").iterdir()}
    assert made == {f"{name}.yaml", "people.yaml", "my_method.py", "people"}
    for recipe in (elsewhere / "start").glob("*.yaml"):
        assert "examples/" not in recipe.read_text(encoding="utf-8"), "not in this folder"


@pytest.mark.parametrize("name", ["smoke", "people", "deletion"])
def test_the_recipes_of_a_made_folder_and_of_the_package_are_valid_anywhere(name: str, elsewhere: Path) -> None:
    assert CliRunner().invoke(app, ["validate", name]).exit_code == 0
    assert CliRunner().invoke(app, ["init", "start", "--recipe", name]).exit_code == 0
    done = CliRunner().invoke(app, ["validate", f"start/{name}.yaml"])
    assert done.exit_code == 0, done.output
    if name != "smoke":
        source = load_recipe(f"start/{name}.yaml").data.source.build("sources", "test")
        assert source.path.is_file() and source.images.is_dir()


def test_init_leaves_a_folder_with_files_alone(elsewhere: Path) -> None:
    (elsewhere / "note.txt").write_text("mine", encoding="utf-8")
    done = CliRunner().invoke(app, ["init", "."])
    assert done.exit_code == 2 and "not an empty folder" in done.output
    assert [path.name for path in elsewhere.iterdir()] == ["note.txt"]


def test_the_shell_completes_names_of_recipes() -> None:
    environment = {"_MLLMU_COMPLETE": "complete_bash", "COMP_WORDS": "mllmu run smo", "COMP_CWORD": "2"}
    done = CliRunner().invoke(app, [], prog_name="mllmu", env=environment)
    assert done.output.split() == [name for name in recipes() if name.startswith("smo")]


def test_a_wheel_runs_without_the_repository(elsewhere: Path) -> None:
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    wheel = next((elsewhere / "wheels").glob("*.whl"))
    with zipfile.ZipFile(wheel) as files:
        about = files.read(next(name for name in files.namelist() if name.endswith("METADATA"))).decode()
        assert {f"mllmu/explorer/static/{name}" for name in (*STATIC, "index.html")} <= set(files.namelist())
    assert "](docs/" not in about and "](https://" in about
    subprocess.run([*pip, "install", "--no-deps", "--target", "site", str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(elsewhere / "site"), "OMP_NUM_THREADS": "1"}
    (elsewhere / "work").mkdir()

    def mllmu(*words: str) -> str:
        command = [sys.executable, "-m", "mllmu", *words]
        done = subprocess.run(command, cwd="work", env=environment, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "smoke" in mllmu("ls", "recipes")
    mllmu("init", "start")
    mllmu("data", "smoke", "--set", "data.source.num_people=8")
    assert list((elsewhere / "work" / "runs" / "smoke" / "data").iterdir())
    assert list((elsewhere / "site" / "mllmu" / "recipes").glob("*.yaml"))
