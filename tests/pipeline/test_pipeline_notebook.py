"""A run in a notebook: data frames, models, the report inline, and the example that is shipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from mini_run import settings
from PIL import Image

import mllmu
from mllmu.core.errors import ModelError, RecipeError, RunStoreError
from mllmu.core.records import Response
from mllmu.core.runfolder import read_json, read_lines

EXAMPLE = Path(__file__).parents[2] / "examples/notebook.ipynb"


def test_results_and_responses_are_those_of_the_folder(finished: Path) -> None:
    pytest.importorskip("pandas", reason="needs the extra 'notebook'")
    done = mllmu.open_run(finished)
    rows = read_json(finished / "eval/forget_40/metrics.json")["results"]
    assert len(done.results) == len(rows) and set(done.results["ratio"]) == {"40"}
    means = done.results.dropna(subset=["value"]).set_index(["model", "split", "task", "modality", "metric"])["value"]
    expected = {(*(r[n] for n in means.index.names),): r["value"] for r in rows if r["value"] is not None}
    assert means.to_dict() == expected
    replies = read_lines(finished / "eval/forget_40/npo/responses/responses.jsonl", Response)
    assert list(done.responses.query("model == 'npo'")["reply"]) == [reply.text for reply in replies]
    assert Path(done) == finished and (done / "run.json").is_file()


def test_another_run_is_laid_beside_value_by_value(finished: Path) -> None:
    pytest.importorskip("pandas", reason="needs the extra 'notebook'")
    done, other = mllmu.open_run(finished), mllmu.open_run(finished)
    other.results = done.results.assign(value=done.results["value"] + 0.25).query("model != 'npo'")
    both = done.compare(other)
    assert set(both["model"]) == set(done.results["model"]) - {"npo"}
    assert set(both.dropna()["difference"].round(9)) == {0.25}
    assert set(done.compare(finished).dropna()["difference"]) == {0.0}


def test_a_model_answers_with_its_adapters(finished: Path) -> None:
    done = mllmu.open_run(finished)
    opened = done.model("npo")
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert not torch.equal(opened.model(tokens).logits, done.model("target").model(tokens).logits)
    text = opened.processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}])
    assert opened.processor(text=text, images=Image.new("RGB", (8, 8)), return_tensors="pt")["pixel_values"].ndim == 4
    assert done.model("prompting").system_prompt
    with pytest.raises(ModelError, match=r"no model 'forget_40/np'\. Did you mean 'forget_40/npo'"):
        done.model("np")


def test_the_report_is_shown_inline_and_escaped(finished: Path, tmp_path: Path) -> None:
    shown = mllmu.open_run(finished).report()
    page = shown._repr_html_()
    assert page.startswith('<iframe srcdoc="&lt;!')
    assert page.count("<") == 2, "nothing of the report ends its frame"
    assert "sandbox=" in page and shown.path == finished / "report/index.html"
    with pytest.raises(RunStoreError, match=r"forget_41/index\.html: no report"):
        mllmu.open_run(finished).report("41")
    with pytest.raises(RunStoreError, match="no run folder"):
        mllmu.open_run(tmp_path)


def test_a_dict_is_a_recipe_and_stays_as_it_was(base: Path) -> None:
    given = settings(base)
    recipe = mllmu.load_recipe(given, "finetune.epochs=7", "unlearn.methods.1.beta=0.3")
    assert recipe.finetune.epochs == 7 and given == settings(base)
    with pytest.raises(RecipeError, match=r"sed: unknown setting\. Did you mean 'seed'"):
        mllmu.load_recipe({"name": "x", "sed": 1})
    with pytest.raises(RecipeError, match="a dict is one recipe"):
        mllmu.load_recipe({**given, "grid": {"seed": [0, 1]}})


def test_run_shows_progress_unless_it_is_told_not_to(
    base: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mllmu.run(settings(base), finished, only="data", progress=False)
    assert not capsys.readouterr().err
    done = mllmu.run(settings(base), finished, only="data")
    assert "data: " in capsys.readouterr().err
    assert repr(done).startswith(f"RunResult('{finished}'): done, models: ")


def test_the_example_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient")
    client = pytest.importorskip("nbclient", reason="needs nbclient").NotebookClient
    notebook = nbformat.read(EXAMPLE, as_version=4)
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"), "OMP_NUM_THREADS": "1"}
    client(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute(env=environment)
    last = notebook.cells[-1]["outputs"][-1]["data"]
    assert "<iframe" in last["text/html"]
    assert (tmp_path / "runs/notebook/report/index.html").is_file()
