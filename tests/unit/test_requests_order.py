"""The recipe of a request: what it keeps of the recipe of the data, where its paths lead, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mllmu.config.recipe import Recipe
from mllmu.core.errors import DataError, FaultsError, MllmuError, PluginError, RecipeError
from mllmu.requests.order import ForgetOrder, check_methods, make_recipe, methods_named, raw_recipe
from mllmu.requests.whom import RequestedFacts

TABLE = Path(__file__).parents[2] / "examples/people/people.csv"
PEOPLE = "name: mine\ndata: {source: {name: people, path: people.csv, key: staff.key.json}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and its files; the working directory is another one."""
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def made(data: Path, *overrides: str, method: str = "npo", people: tuple[str, ...] = ("001",)) -> Recipe:
    order = ForgetOrder(model="tiny", data=data, method=method, overrides=overrides)
    whom = RequestedFacts(list(people), {}, 8)
    parts = ("tiny", None, [Path("a")])
    recipe = make_recipe(order, "r001", whom, listed=Path("l.json"), parts=parts, methods=methods_named(order))
    check_methods(recipe)
    return recipe


@pytest.mark.parametrize(
    "empty",
    ["unlearn:", "evaluate:", "data:", "model:", "finetune:", "report:", "data: {splits: }", "data: {source: }",
     "evaluate: {max_profiles: }", "unlearn: {methods: }", "", "seeds:"],
)  # fmt: skip
def test_a_section_with_nothing_below_it_is_the_default(folder: Path, empty: str) -> None:
    (folder / "plain.yaml").write_text("name: x\n")
    (folder / "empty.yaml").write_text(f"name: x\n{empty}\n")
    assert made(folder / "empty.yaml") == made(folder / "plain.yaml")
    assert made(folder / "empty.yaml", "unlearn=null", "data=null") == made(folder / "plain.yaml")


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ("model: tiny", "model"),
        ("unlearn: [npo]", "unlearn"),
        ("data: 3", "data"),
        ("data: {splits: all}", "data.splits"),
        ("evaluate: {max_profiles: 8}", "evaluate.max_profiles"),
        ("report: mine", "report"),
        ("finetune: {epochs: many}", "finetune.epochs"),
        ("data: {source: [people]}", "data.source"),
        ("dta: {}", "dta"),
    ],
)
def test_a_section_of_another_type_is_an_error_of_the_recipe(folder: Path, wrong: str, place: str) -> None:
    (folder / "wrong.yaml").write_text(f"name: x\n{wrong}\n")
    with pytest.raises(RecipeError, match=rf"--data .*wrong\.yaml: {place}"):
        made(folder / "wrong.yaml")


def test_what_a_request_has_of_its_own_is_not_taken_from_the_recipe_of_the_data(folder: Path) -> None:
    (folder / "full.yaml").write_text(
        "name: x\ndata: {splits: {skew: {female: 4}, holdout: 3}}\nmodel: {path: gone/away/now, dtype: float32}\n"
        'finetune: {given: [gone]}\nunlearn: {methods: ["no.such:Method"], requests: 3, lora: {rank: 4}}\n'
        "evaluate: {tasks: [cloze], judges: [rule], summaries: [all], max_profiles: {retain: 5}}\n"
    )
    recipe = made(folder / "full.yaml", "evaluate.batch_size=8")
    assert (recipe.model.path, recipe.model.dtype, recipe.finetune.given) == ("tiny", "float32", (Path("a"),))
    assert recipe.unlearn.lora and recipe.unlearn.lora.rank == 4 and not recipe.unlearn.requests
    assert [spec.name for spec in recipe.unlearn.methods] == ["npo"]
    assert recipe.evaluate.batch_size == 8 and recipe.evaluate.tasks == ("cloze",) and not recipe.evaluate.judges
    assert recipe.evaluate.max_profiles == {"retain": 5, "celebrity": 8, "forget": 1, "test": 1}
    assert (recipe.data.splits.holdout, recipe.data.splits.calibration, recipe.data.splits.skew) == (3, 8, {})


@pytest.mark.parametrize(
    ("method", "error", "said"),
    [
        ("nppo", PluginError, "no 'nppo'.*Did you mean 'npo'"),
        ("{name: npo, epochss: 3}", RecipeError, "epochss.*Did you mean 'epochs'"),
        ("{epochs: 3}", RecipeError, "name"),
        ("{name: npo", RecipeError, "--method: not valid YAML"),
        ("[npo]", RecipeError, "name"),
        ("{name: npo, modality: [text, both]}", RecipeError, "makes 2 models"),
        ("retrain", RecipeError, "needs a retain_model"),
    ],
)
def test_a_method_that_is_none_is_an_error(folder: Path, method: str, error: type[MllmuError], said: str) -> None:
    (folder / "mine.yaml").write_text("name: x\n")
    with pytest.raises(error, match=said):
        made(folder / "mine.yaml", method=method)


def paths(data: Path, *overrides: str) -> dict[str, str]:
    return raw_recipe(ForgetOrder(model="tiny", data=data, overrides=overrides))["data"]["source"]


def test_a_path_is_looked_for_beside_the_recipe_and_then_here(folder: Path) -> None:
    (folder / "mine.yaml").write_text(PEOPLE)
    shutil.copyfile(TABLE, folder / "people.csv")
    (folder / "staff.key.json").write_text("{}")
    found = paths(folder / "mine.yaml")
    assert (found["path"], found["key"]) == (str(folder / "people.csv"), str(folder / "staff.key.json"))
    for name in ("people.csv", "staff.key.json", "other.json"):
        Path(name).write_text("{}")
    assert paths(folder / "mine.yaml") == found
    typed = paths(folder / "mine.yaml", "data.source.key=staff.key.json", "data.source.approved=other.json")
    assert (typed["path"], typed["key"], typed["approved"]) == (found["path"], "staff.key.json", "other.json")
    (folder / "people.csv").unlink()
    (folder / "staff.key.json").unlink()
    assert (paths(folder / "mine.yaml")["path"], paths(folder / "mine.yaml")["key"]) == ("people.csv", "staff.key.json")


def test_a_path_that_leads_nowhere_is_named_before_anything_is_begun(folder: Path) -> None:
    (folder / "mine.yaml").write_text(PEOPLE)
    with pytest.raises(FaultsError, match=r"data\.source\.path: people\.csv: .*neither beside the recipe .*project"):
        paths(folder / "mine.yaml")
    with pytest.raises(FaultsError, match=r"data\.source\.path: none\.csv: no such file or folder"):
        paths(Path("none.csv"))


def test_a_table_is_looked_for_here_and_not_beside_itself(folder: Path) -> None:
    Path("sub").mkdir()
    shutil.copyfile(TABLE, "sub/people.csv")
    Path("k.json").write_text("{}")
    found = paths(Path("sub/people.csv"), "data.source.key=k.json")
    assert (found["path"], found["key"]) == ("sub/people.csv", "k.json")


def test_the_packaged_recipe_of_the_walk_finds_its_table_from_anywhere(folder: Path) -> None:
    found = paths(Path("deletion"))
    assert Path(found["path"]).is_file() and Path(found["images"]).is_dir()
    assert found["key"] == "people.key.json", "made here by the first run"


def test_a_table_of_holdout_people_belongs_to_a_table(folder: Path) -> None:
    (folder / "mine.yaml").write_text("name: x\n")
    order = ForgetOrder(model="tiny", data=folder / "mine.yaml", holdout=TABLE)
    with pytest.raises(RecipeError, match="got 'synthetic'"):
        make_recipe(order, "r1", RequestedFacts(["001"], {}, 8), listed=Path("l"), parts=("tiny", None, []), methods=[])
    with pytest.raises(DataError):
        paths(Path("none.csv"))
