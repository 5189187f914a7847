"""Other weights, or another template, at the path of the base: a finished run neither mixes nor exports the two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mini_run
import pytest
from helpers_models import Watcher
from safetensors.torch import load_file, save_file

from mllmu.core.errors import RunStoreError
from mllmu.core.runfolder import RunFolder
from mllmu.pipeline.export_model import export_model
from mllmu.pipeline.published import model_at


@pytest.fixture
def own_base(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "own_base"))


@pytest.fixture
def own_run(finished: Path, own_base: Path, tmp_path: Path) -> Path:
    """The finished run, whose base has moved since."""
    root = Path(shutil.copytree(finished, tmp_path / "run"))
    recipe = root / RunFolder.RECIPE
    text = recipe.read_text()
    old = next(line.split()[-1] for line in text.splitlines() if line.strip().startswith("path:") and "base" in line)
    recipe.write_text(text.replace(old, str(own_base)))
    return root


def reseed(base: Path) -> None:
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)
    weights[name] += 0.01
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})


def test_a_run_goes_on_with_its_base_at_another_place(own_base: Path, own_run: Path, tmp_path: Path) -> None:
    before = mini_run.fingerprints(own_run, "eval/**/*.json*")
    shutil.rmtree(own_run / "eval" / "forget_40" / "ga")
    mini_run.run(own_base, own_run, f"model.path={own_base}/", only="evaluate")
    again = mini_run.fingerprints(own_run, "eval/**/responses.jsonl")
    assert again == {name: value for name, value in before.items() if name in again}
    export_model(own_run, "forget_40/ga", tmp_path / "out")


@pytest.mark.parametrize("what", ["weights", "template"])
def test_a_finished_run_is_refused_and_kept(own_base: Path, own_run: Path, tmp_path: Path, what: str) -> None:
    if what == "weights":
        reseed(own_base)
    else:
        (own_base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    file = {"weights": "model.safetensors", "template": "chat_template.jinja"}[what]
    said = rf"models/target: was made on another base model than the one at .*own_base now: {file}"
    before = mini_run.fingerprints(own_run, "[me]*/**/*")
    shutil.rmtree(own_run / "eval" / "forget_40" / "ga")
    with pytest.raises(RunStoreError, match=said):
        mini_run.run(own_base, own_run)
    with pytest.raises(RunStoreError, match=said):
        mini_run.run(own_base, own_run, "unlearn.methods=[ga, idk]", only="unlearn")
    for model in ("target", "forget_40/npo"):
        with pytest.raises(RunStoreError, match=said):
            export_model(own_run, model, tmp_path / "out")
    after = mini_run.fingerprints(own_run, "[me]*/**/*")
    assert after == {name: value for name, value in before.items() if "/ga/" not in name or name in after}
    assert not (tmp_path / "out").exists()


def test_a_finished_run_whose_base_is_gone_can_still_be_reported(own_base: Path, own_run: Path) -> None:
    mini_run.run(own_base, own_run, only="finetune")  # its base is known at this place
    shutil.rmtree(own_base)
    mini_run.run(own_base, own_run, only="report", progress=Watcher())
    assert json.loads((own_run / RunFolder.RECORD).read_text())["status"] == "done"


def test_a_model_of_a_run_is_not_evaluated_on_another_base(own_base: Path, own_run: Path) -> None:
    from mllmu.config.recipe import ModelSection

    folder = str(mini_run.without_digests(own_run / "models" / "forget_40" / "ga"))
    ref = json.loads((own_run / "models" / "forget_40" / "ga" / RunFolder.MODEL_FILE).read_text())
    (own_run / "models" / "forget_40" / "ga" / RunFolder.MODEL_FILE).write_text(
        json.dumps(ref | {"base": str(own_base)})
    )
    section, found, root = model_at(folder, ModelSection())
    assert (section.path, found.base, root) == (str(own_base), str(own_base), own_run)
    reseed(own_base)
    with pytest.raises(RunStoreError, match="was made on another base model"):
        model_at(folder, ModelSection())
