"""What is given as RECIPE, where its paths lead, and the look ahead before a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mllmu import load_recipe
from mllmu.cli.app import app
from mllmu.config.given import given_recipes, place
from mllmu.core.errors import FaultsError, RecipeError
from mllmu.core.runfolder import UNIT_FILE
from mllmu.preflight import ahead
from mllmu.preflight.plan.here import measured_here
from mllmu.preflight.plan.rates import find_device

ROOT = Path(__file__).parents[2]
TABLE = "name: mine\ndata:\n  source: {name: people, path: people.csv, images: pictures}\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and its files in a folder of their own; the working directory is elsewhere."""
    folder = tmp_path / "project" / "recipes"
    (folder / "pictures").mkdir(parents=True)
    (folder / "people.csv").write_text("name\n", encoding="utf-8")
    (folder / "mine.yaml").write_text(TABLE, encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def source(recipe: Path, *overrides: str) -> dict[str, str]:
    return {key: str(value) for key, value in load_recipe(recipe, *overrides).data.source.settings.items()}


def test_paths_are_relative_to_the_recipe(project: Path) -> None:
    found = source(project / "mine.yaml")
    assert found == {"path": str(project / "people.csv"), "images": str(project / "pictures")}


def test_then_to_the_working_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(project / "people.csv", "people.csv")
    assert source(project / "mine.yaml")["path"] == "people.csv"


def test_what_is_set_on_the_command_line_is_relative_to_the_working_directory(project: Path) -> None:
    Path("people.csv").write_text("name\n", encoding="utf-8")
    assert source(project / "mine.yaml", "data.source.path=people.csv")["path"] == "people.csv"
    assert source(project / "mine.yaml")["path"] == str(project / "people.csv")
    assert source(project / "mine.yaml", "data.source.images=pictures")["images"] == str(project / "pictures")


def test_a_path_above_the_recipe_is_written_plainly(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    Path("recipe").mkdir()
    Path("recipe/mine.yaml").write_text(TABLE.replace("people.csv", "../people.csv"), encoding="utf-8")
    assert source(Path("recipe/mine.yaml"))["path"] == "people.csv"


@pytest.mark.parametrize("part", ["source", "celebrities", "holdout_source"])
def test_every_source_finds_its_files_beside_the_recipe(project: Path, part: str) -> None:
    recipe = project / "part.yaml"
    recipe.write_text(f"name: mine\ndata:\n  {part}: {{name: people, path: people.csv}}\n", encoding="utf-8")
    assert getattr(load_recipe(recipe).data, part).settings["path"] == str(project / "people.csv")
    (project / "people.csv").unlink()
    (given,) = given_recipes(recipe)
    assert list(given.missing) == [f"data.{part}.path"]


def test_the_home_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(project))
    assert source(project / "mine.yaml", "data.source.path=~/people.csv")["path"] == str(project / "people.csv")
    (project / "model").mkdir()
    assert load_recipe(project / "mine.yaml", "model.path=~/model").model.path == str(project / "model")
    assert place("~nobody-of-this-name/x", project) is None


def test_a_model_beside_the_recipe(project: Path) -> None:
    (project / "models" / "llava").mkdir(parents=True)
    assert load_recipe(project / "mine.yaml", "model.path=models/llava").model.path == str(project / "models" / "llava")
    assert load_recipe(project / "mine.yaml", "model.path=org/llava").model.path == "org/llava"


def test_adapters_beside_the_recipe(project: Path) -> None:
    for folder in (project / "adapters/a", Path("b"), project / "b"):
        folder.mkdir(parents=True)
    (project / "taken.yaml").write_text("name: taken\nfinetune: {given: [adapters/a, b]}\n", encoding="utf-8")
    assert load_recipe(project / "taken.yaml").finetune.given == (project / "adapters/a", project / "b")
    typed = load_recipe(project / "taken.yaml", "finetune.given=[b, adapters/a]").finetune.given
    assert typed == (Path("b"), project / "adapters/a")


def test_an_adapter_that_is_not_there_is_missed_until_the_target_is_made(project: Path, tmp_path: Path) -> None:
    (found,) = given_recipes(project / "mine.yaml", ["finetune.given=[none/a, pictures]"])
    assert list(found.missing) == ["finetune.given.0"]
    with pytest.raises(FaultsError, match=r"finetune\.given\.0: none/a: no such file or folder, neither beside"):
        ahead.look_ahead(found.recipe, Path("runs/mine"), found.missing, say=print, estimate=False)
    (tmp_path / "run/models/target").mkdir(parents=True)
    (tmp_path / "run/models/target/unit.json").write_text("{}", encoding="utf-8")
    ahead.look_ahead(found.recipe, tmp_path / "run", found.missing, say=print, estimate=False)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/no/such/folder", "model.path: /no/such/folder: no such file or folder"),
        ("~/no-such-model", r"model.path: .*/no-such-model: no such file or folder"),
        ("./llava", r"neither beside the recipe \(.*project/recipes/llava\) nor from here \(.*elsewhere/llava\)"),
        ("$HOME/llava", "variables are not replaced in a recipe"),
        ("https://huggingface.co/org/llava-7b/tree/main", "Expected the name on the hub: org/llava-7b"),
        ("people.csv", "a file. Expected the folder that it lies in"),
    ],
)
def test_a_path_that_can_be_no_model_is_said_before_anything_is_made(project: Path, path: str, said: str) -> None:
    found = given_recipes(project / "mine.yaml", [f"model.path={path}"])[0]
    with pytest.raises(FaultsError, match=said):
        ahead.look_ahead(found.recipe, Path("runs/mine"), found.missing, say=print, estimate=False)
    assert not Path("runs").exists()


def test_every_fault_is_named_at_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(ahead, "not_installed", lambda extra: ["lib"] if extra in ("vllm", "qlora") else [])
    settings = ["data.splits.file=ids.json", "data.splits.keys=[a]", "data.source.path=none.csv", "model.quantize=nf4"]
    settings += ["evaluate.backend=vllm", "evaluate.judges=[{name: endpoint, model: m}]", "data.review=notes.json"]
    found = given_recipes(project / "mine.yaml", settings)[0]
    with pytest.raises(FaultsError, match="mine: 6 faults, found before anything was done") as caught:
        ahead.look_ahead(found.recipe, Path("runs/mine"), found.missing, say=print)
    text = "\n".join(caught.value.faults)
    for part in (
        "data.splits.file",
        "data.review",
        "data.source.path",
        "mllmu[vllm]",
        "mllmu[qlora]",
        "OPENAI_API_KEY",
    ):
        assert part in text


NULL = ["finetune.lora=null", "unlearn.lora=null"]


def faults(recipe: Path, folder: Path, *settings: str) -> list[str]:
    """The faults that are found before a run."""
    found = given_recipes(recipe, ["unlearn.methods=[ga]", *settings])[0]
    try:
        ahead.look_ahead(found.recipe, folder, found.missing, say=print, estimate=False)
    except FaultsError as error:
        return list(error.faults)
    return []


def test_weights_that_cannot_be_trained_are_a_fault(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "not_installed", lambda _: [])
    mine, run = project / "mine.yaml", Path("runs/mine")
    [both] = faults(mine, run, *NULL, "model.quantize=int8")
    assert both.startswith("finetune.lora and unlearn.lora: null") and "leave model.quantize out" in both
    [unlearn] = faults(mine, run, NULL[1], "model.dtype=bfloat16")
    assert unlearn.startswith("unlearn.lora: null") and "set model.dtype: float32" in unlearn
    [finetune] = faults(mine, run, NULL[0], "model.device=cuda:1")
    assert finetune.startswith("finetune.lora: null") and "model.dtype: auto makes them bfloat16" in finetune
    assert not Path("runs").exists()


def test_a_second_pass_without_the_vision_tower_is_a_fault_until_the_model_is_made(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "not_installed", lambda _: [])
    mine, run = project / "mine.yaml", project / "runs/mine"
    both = "unlearn.methods=[{name: whp, layers: published}, {name: npo, layers: published}]"
    [fault] = faults(mine, run, both)
    assert fault.startswith("unlearn.methods: whp steers logits") and fault.endswith("Leave layers out.")
    assert not faults(mine, run, "unlearn.methods=[whp]")
    unit = run / "models/forget_0.05/whp"
    unit.mkdir(parents=True)
    (unit / "unit.json").write_text("{}")
    assert not faults(mine, run, both)


def test_weights_that_can_be_trained_are_none(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "not_installed", lambda _: [])
    mine, run = project / "mine.yaml", Path("runs/mine")
    assert not faults(mine, run, *NULL, "model.device=cpu")
    assert not faults(mine, run, *NULL, "model.device=cuda", "model.dtype=float32")
    assert not faults(mine, run, "model.quantize=nf4"), "adapters"
    taught = ["finetune.given=[]", "unlearn.methods=[steering, retrain]", "model.quantize=nf4"]
    assert not faults(mine, run, *NULL, *taught), "nothing trains weights"
    for unit in ("models/target", "models/forget_10/ga"):
        assert faults(mine, run, *NULL, "model.quantize=nf4")
        (run / unit).mkdir(parents=True)
        (run / unit / UNIT_FILE).touch()
    assert not faults(mine, run, *NULL, "model.quantize=nf4"), "all is trained"


def test_the_precision_is_that_of_the_device_that_the_run_will_use(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, run, large = project / "mine.yaml", Path("runs/mine"), project / "large"
    large.mkdir()
    (large / "config.json").write_text("{}", encoding="utf-8")
    for gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert not faults(mine, run, *NULL, "model.path=tiny"), "a small model runs on a CPU"
        assert bool(faults(mine, run, *NULL, f"model.path={large}")) is gpu
    (large / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}', encoding="utf-8")
    [stored] = faults(mine, run, *NULL, f"model.path={large}", "model.dtype=float32")
    assert "model.path holds them in few bits (awq)" in stored and "name a model in full precision" in stored


def test_validate_says_what_is_missing_and_what_a_run_needs(project: Path) -> None:
    done = CliRunner().invoke(app, ["validate", str(project / "mine.yaml"), "--set", "data.source.images=none"])
    assert done.exit_code == 2 and "data.source.images" in done.output
    done = CliRunner().invoke(app, ["validate", "smoke"])
    assert done.exit_code == 0 and done.output.startswith("valid\n")
    assert "ahead: about " in done.output and " GiB of memory; " in done.output and "free on the disk" in done.output


def test_a_hub_name_and_what_a_run_makes_itself_are_not_missing(project: Path) -> None:
    text = "name: hub\ndata: {source: {name: mllmu_bench, path: MLLMMU/MLLMU-Bench}}\n"
    (project / "hub.yaml").write_text(text, encoding="utf-8")
    assert given_recipes(project / "hub.yaml")[0].missing == {}
    keyed = given_recipes(project / "mine.yaml", ["data.source.key=new.json", "data.source.approved=a.json"])[0]
    assert keyed.missing == {}


def test_a_folder_without_a_run_is_no_recipe(project: Path) -> None:
    with pytest.raises(RecipeError, match="no run in this folder"):
        given_recipes(project)


def test_this_machine_is_a_device() -> None:
    device = find_device("here")
    assert device.memory == measured_here().memory > 0 and 0 < device.tflops < 10_000 and device.gb_s > 0


def test_the_packaged_recipe_of_people_finds_its_table_from_anywhere(project: Path) -> None:
    found = given_recipes(Path("people"))[0]
    assert found.missing == {} and found.recipe.data.source.build("sources", "data.source").expected_people() == 24


def test_the_rough_plan_is_near_the_simulated_one() -> None:
    from mllmu.preflight.plan.plan import make_plan

    recipe = load_recipe("smoke", "unlearn.methods=[npo]")
    exact, rough = (make_plan(recipe, "cpu", rough=how) for how in (False, True))
    for a, b in zip(exact.stages, rough.stages, strict=True):
        assert 0.4 < a.hours / b.hours < 2.5 and 0.3 < a.peak / b.peak < 3, a.what
