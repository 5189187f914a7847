"""An exported model is an ordinary folder: the usual Auto classes load it and it gives the same logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mini_run
import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText, AutoProcessor, ProcessorMixin
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config import load as recipes
from mllmu.config.load import parse
from mllmu.core.errors import ModelError
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, RunStore
from mllmu.models.loading import load
from mllmu.pipeline.export_model import export_model
from mllmu.pipeline.model_card import model_card


def test_an_exported_model_gives_the_same_logits(finished: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export-model", str(finished), "forget_40/ga", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    ref = ModelRef.model_validate_json((finished / "models/forget_40/ga/model.json").read_text())
    ours = load(recipes.load(finished / "recipe.yaml").model, ref, finished).model
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", attn_implementation="eager")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    batch = processor.tokenizer(["Where was this person born?"], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(ours(**batch).logits, theirs(**batch).logits)
    target = ModelRef.model_validate_json((finished / "models/target/model.json").read_text())
    untouched = load(recipes.load(finished / "recipe.yaml").model, target, finished).model
    with torch.no_grad():
        assert not torch.equal(untouched(**batch).logits, theirs(**batch).logits), "the adapters are in the weights"
    assert json.loads((tmp_path / "out" / "mllmu.json").read_text())["model"] == "forget_40/ga"
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"


def test_a_system_prompt_is_said_to_be_outside_the_weights(finished: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export-model", str(finished), "forget_40/prompting", str(tmp_path / "out")])
    assert "needs its system prompt, which is not part of the weights" in done.output
    assert json.loads((tmp_path / "out" / "mllmu.json").read_text())["system_prompt"]


def test_an_empty_working_directory_is_filled(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    assert CliRunner().invoke(app, ["export-model", str(finished), "target", "."]).exit_code == 0
    assert {"config.json", "mllmu.json", "README.md"} <= {path.name for path in Path().iterdir()}
    assert Path("mllmu.json").samefile(tmp_path / "new/mllmu.json"), "the working directory is the same folder"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    done = CliRunner().invoke(app, ["export-model", str(finished), "target", "."])
    assert done.exit_code == 2 and "already there" in done.output


def test_a_wrong_name_or_a_taken_folder_is_an_error(finished: Path, tmp_path: Path) -> None:
    assert {"target", "forget_40/retain_model", "forget_40/npo"} <= set(RunFolder(finished).models_made())
    with pytest.raises(ModelError, match=r"no model 'forget_40/np'\. Did you mean 'forget_40/npo'"):
        export_model(finished, "forget_40/np", tmp_path / "out")
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ModelError, match="already there"):
        export_model(finished, "target", tmp_path / "mine")


@pytest.mark.parametrize("method", ["whp", "steering", "router"])
def test_a_model_that_no_weights_hold_is_refused_before_anything_is_written(
    finished: Path, base: Path, tmp_path: Path, method: str
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    mini_run.run(base, tmp_path / "run", f"unlearn.methods=[{method}]", only="unlearn")
    done = CliRunner().invoke(
        app, ["export-model", str(tmp_path / "run"), f"forget_40/{method}", str(tmp_path / "out")]
    )
    assert done.exit_code == 2, done.output
    assert "acts at inference (modifier.json), which weights cannot hold" in " ".join(done.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_neurons_that_are_switched_off_are_off_in_the_exported_weights(
    finished: Path, base: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    mini_run.run(base, run, "unlearn.methods=[{name: manu, share: 0.2}]", only="unlearn")
    export_model(run, "forget_40/manu", tmp_path / "out")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", attn_implementation="eager")
    ref = ModelRef.model_validate_json((run / "models/forget_40/manu/model.json").read_text())
    ours = load(recipes.load(run / "recipe.yaml").model, ref, run).model
    ids = torch.tensor([[5, 9, 30]])
    with torch.no_grad():
        assert torch.equal(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_export_that_ends_early_leaves_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error("stopped")

    monkeypatch.setattr(ProcessorMixin, "save_pretrained", stop)
    with pytest.raises(error, match="stopped"):
        export_model(finished, "target", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_run_on_several_gpus_is_exported_on_a_cpu(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    recipe = run / "recipe.yaml"
    changed = yaml.safe_load(recipe.read_text())
    changed["model"] |= {"device_map": "auto", "device": "cuda"}
    recipe.write_text(yaml.safe_dump(changed))
    export_model(run, "target", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_card_says_how_a_model_was_made_that_the_recipe_does_not_name(tmp_path: Path) -> None:
    """The model after the first of several requests, a trial of a search, a method of an earlier recipe, and a pool."""
    recipe = parse({"name": "x", "model": {"path": "smol"}, "unlearn": {"methods": ["npo"]}})
    made = {"npo@1": "npo", "tune_ga_text_2": "ga", "grad_diff": "grad_diff", "trust_with_0": None}
    store, said = RunStore(tmp_path), {}
    for name, method in made.items():
        with store.unit(f"models/forget_25/{name}", {"method": method} if method else {}).making():
            pass
        card = model_card(tmp_path, recipe, f"forget_25/{name}", ModelRef(base="smol"))
        said[name] = next(line for line in card.splitlines() if line.startswith("`smol`")).partition(" Written")[0]
    taught = "`smol`, fine-tuned on all people of the data set, and then made to forget"
    assert said == {
        "npo@1": f"{taught} 25 % of them by the method `npo`: as it is after request 1.",
        "tune_ga_text_2": f"{taught} 25 % of them by the method `ga`.",
        "grad_diff": f"{taught} 25 % of them by the method `grad_diff`.",
        "trust_with_0": "`smol`, fine-tuned by the run as `trust_with_0`, at 25 % to be forgotten.",
    }


def test_what_other_tools_must_be_told_is_printed_and_in_the_card(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllmu.pipeline.export_model.export_notes", lambda *_: ["Beware of it."])
    done = CliRunner().invoke(app, ["export-model", str(finished), "target", str(tmp_path / "out")])
    assert done.exit_code == 0 and "Beware of it." in done.output
    assert (tmp_path / "out" / "README.md").read_text().endswith("## In other tools\n\n- Beware of it.\n")
