"""Several recipes in one file: every combination once, each checked, and no change lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.cli.run import each
from mllmu.config.load import load, load_all
from mllmu.core.errors import RecipeError


def write(folder: Path, grid: object, **settings: object) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"name": "several", "grid": grid, **settings}, sort_keys=False), encoding="utf-8")
    return path


def test_every_combination_is_one_recipe_named_after_its_values(tmp_path: Path) -> None:
    found = load_all(write(tmp_path, {"model.path": ["org/a", "/models/b/"], "seed": [0, 7]}, gate=False))
    assert {name: (one.model.path, one.seed) for name, one in found.items()} == {
        "a_0": ("org/a", 0), "a_7": ("org/a", 7), "b_0": ("/models/b/", 0), "b_7": ("/models/b/", 7),
    }  # fmt: skip
    assert all(one.name == "several" and not one.gate for one in found.values())
    assert [one.report.title for one in found.values()] == [f"several: {name}" for name in found]


def test_a_value_inside_shared_settings_changes_its_own_recipe_alone(tmp_path: Path) -> None:
    path = write(tmp_path, {"unlearn.methods.0.beta": [0.1, 0.4]}, unlearn={"methods": [{"name": "npo"}]})
    assert [one.unlearn.methods[0].settings for one in load_all(path).values()] == [{"beta": 0.1}, {"beta": 0.4}]


def test_a_plain_file_is_one_recipe_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("name: plain\n")
    assert load_all(tmp_path / "plain.yaml") == {"": load(tmp_path / "plain.yaml")}


def test_a_change_of_a_varied_setting_leaves_that_value_alone(tmp_path: Path) -> None:
    path = write(tmp_path, {"model.path": ["org/a", "org/b"], "seed": [0, 7]})
    assert list(load_all(path, ["model.path=org/c"])) == ["c_0", "c_7"]
    assert load(path, ["model.path=org/c", "seed=3"]).seed == 3
    with pytest.raises(RecipeError, match=r"a grid of 2 recipes \(c_0, c_7\), and one is needed here"):
        load(path, ["model.path=org/c"])


@pytest.mark.parametrize("change", ["unlearn.methods.0.beta=0.2", "unlearn.methods=[ga]"])
def test_a_change_that_the_grid_would_undo_is_refused(tmp_path: Path, change: str) -> None:
    axis = "unlearn.methods" if ".0." in change else "unlearn.methods.0.beta"
    path = write(tmp_path, {axis: [["npo"]] if ".0." in change else [0.1]}, unlearn={"methods": [{"name": "npo"}]})
    with pytest.raises(RecipeError, match=f"the grid varies '{axis}'"):
        load_all(path, [change])


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"model.pth": ["a"]}, r"\(a\).*model\.pth.*Did you mean '(model\.)?path'"),
        ({"modle.path": ["a"]}, r"\(a\).*modle.*Did you mean 'model'"),
        ({"seed": [0, -1]}, r"\(1\).*seed"),
        ({"seed": 0}, "grid: seed: expected a list of values, got 0"),
        ({"seed": []}, "grid: seed: expected a list of values"),
        ({}, "grid: expected settings with their values"),
        ([1], "grid: expected settings with their values"),
        ({"name": ["a", "b"]}, "grid: 'name' is no setting that can vary"),
        ({"model.path": ["x/a", "y/a"]}, "grid: two combinations are named 'a'"),
        ({"gate.deep": [1]}, "grid: gate.deep: 'gate' is a single value"),
    ],
)
def test_a_wrong_grid_is_an_error_that_names_it(tmp_path: Path, grid: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_all(write(tmp_path, grid, gate=True))


def test_validate_names_every_recipe_and_fails_on_a_wrong_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(write(tmp_path, {"seed": [0, 7]}))])
    assert done.stdout == "valid: a grid of 2 recipes: 0, 7\n"
    shown = CliRunner().invoke(app, ["validate", "--show", str(write(tmp_path, {"seed": [0, 7]}))])
    assert [one["seed"] for one in yaml.safe_load_all(shown.output.partition("\n")[2])] == [0, 7]
    assert CliRunner().invoke(app, ["validate", str(write(tmp_path, {"sed": [0]}))]).exit_code == 2


def test_every_recipe_is_given_out_with_a_folder_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, {"seed": [0, 7]})
    assert [(run.name, run.folder) for run in each(path)] == [
        ("0", Path("runs/several/0")),
        ("7", Path("runs/several/7")),
    ]
    assert capsys.readouterr().out == "0:\n7:\n"
    assert [run.folder for run in each(path, ["seed=7"], Path("x"), quiet=True)] == [Path("x/7")]
    assert capsys.readouterr().out == ""
    (tmp_path / "plain.yaml").write_text("name: plain\n")
    assert [(run.name, run.folder) for run in each(tmp_path / "plain.yaml")] == [("", Path("runs/plain"))]


def test_a_recipe_that_fails_does_not_keep_the_next_one_from_being_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, {"data.source.num_people": [1, 12]}, data={"celebrities": None, "portraits": "dicebear"})
    done = CliRunner().invoke(app, ["data", str(path), "--set", "data.splits.holdout=2"])
    assert done.exit_code == 2
    assert done.stderr.count("error: ") == 2 and "error: failed: 1; the reasons are above" in done.stderr
    assert (tmp_path / "runs" / "several" / "12" / "data" / "profiles.jsonl").is_file()


def test_a_grid_is_planned_recipe_by_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, {"finetune.epochs": [1, 2]}, data={"source": {"num_people": 20}})
    planned = CliRunner().invoke(app, ["plan", str(path), "--device", "cpu", "--json"]).stdout
    one, two = json.loads("[" + planned.replace("\n}\n{", "\n},\n{") + "]")
    assert two["hours"] > one["hours"]
