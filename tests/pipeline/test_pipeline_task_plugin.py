"""A task of another package: named in a recipe, it is asked, trained, scored and reported like the built-in ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mini_run
import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.load import parse
from mllmu.core.declared import Declared
from mllmu.core.errors import PluginError, RecipeError
from mllmu.core.records import Question, Sample
from mllmu.core.runfolder import read_lines
from mllmu.data.dataset import load
from mllmu.evaluation.samples import render

EXAMPLES = Path(__file__).parents[2] / "examples"
NAME, PATH = "true_or_false", "my_task:TrueOrFalse"
WANTED = (
    "data.train_formats=[question, cloze, true_or_false]",
    "unlearn.methods=[ga]",
    "evaluate.tasks=[generation, true_or_false]",
    "evaluate.protocol.shots={true_or_false: 1}",
    "evaluate.max_profiles={forget: 2, test: 1, retain: 2, celebrity: 1, holdout: 0}",
)


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A package on the path that registers the example's task under a name of its own."""
    folder = tmp_path_factory.mktemp("package")
    about = folder / "some_tasks-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: some-tasks\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[mllmu.tasks]\n{NAME} = {PATH}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.syspath_prepend(str(EXAMPLES))
        yield


@pytest.fixture(scope="module")
def finished_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_run.run(base, tmp_path_factory.mktemp("task") / "run", *WANTED)


def metrics(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "eval/forget_40/metrics.json").read_text("utf-8"))
    return found


def test_mllmu_ls_shows_it() -> None:
    listed = CliRunner().invoke(app, ["ls", "tasks"], env={"COLUMNS": "200"}).output
    assert "true_or_false" in listed and "A statement about the person, true and false in turn" in listed
    assert "max_new_tokens" in CliRunner().invoke(app, ["ls", "tasks", PATH], env={"COLUMNS": "200"}).output


def test_its_questions_are_made_trained_and_asked(finished_run: Path) -> None:
    trained = [q for q in read_lines(finished_run / "data/questions.jsonl", Question) if q.task == NAME]
    assert trained and {q.variant for q in trained} == {"train"}
    assert len({q.id for q in trained}) == len(trained)
    assert {q.id for q in trained if q.modality == "text"} >= {f"001.train.{NAME}.text.0", f"001.train.{NAME}.text.1"}
    asked = read_lines(finished_run / "eval/forget_40/samples.jsonl", Sample)
    assert {s.task for s in asked} == {"generation", NAME}
    own = [s for s in asked if s.task == NAME]
    assert {s.target for s in own} == {"True", "False"} == {s.candidates["wrong_0"] for s in own}
    assert all(s.prompt.endswith("True or false? Answer with one word.") and len(s.examples) == 1 for s in own)
    assert {s.split for s in own} == {"forget", "test", "retain", "celebrity"}


def test_its_numbers_are_in_metrics_json(finished_run: Path) -> None:
    content = metrics(finished_run)
    rows = [row for row in content["results"] if row["task"] == NAME]
    assert {row["metric"] for row in rows} == {
        "cloze_exact",
        "probability",
        "right",
        "wrong",
        "refused",
        "unread",
        "garbled",
    }
    assert all(row["num"] > 0 for row in rows if row["metric"] == "right")
    declared = Declared.model_validate(content["declared"]).tasks[NAME]
    assert (declared.label, declared.metric) == ("True or false", "cloze_exact")


def test_its_table_is_in_the_report(finished_run: Path) -> None:
    page = (finished_run / "report/index.html").read_text(encoding="utf-8")
    assert "True or false" in page
    rows = (finished_run / "report/tradeoff.csv").read_text("utf-8").splitlines()
    assert any(f",{NAME}," in row for row in rows)


def test_it_can_be_named_by_its_path_as_well(finished_run: Path) -> None:
    recipe = parse(mini_run.settings(finished_run, f"evaluate.tasks=['{PATH}']", "evaluate.protocol.shots={}"))
    asked = render(load(finished_run / "data"), "40", recipe.evaluate, selection=0.0, seed=0)
    assert asked and {s.task for s in asked} == {PATH}
    assert asked[0].question_id.startswith(f"{asked[0].profile_id}.eval.{PATH}.")


def test_what_it_does_not_define_is_said_before_anything_runs(base: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.tasks: 'true_or_false' has no published prompt"):
        parse(mini_run.settings(base, f"evaluate.tasks=[{NAME}]", "evaluate.protocol.prompts=published"))
    with pytest.raises(PluginError, match=r"data\.train_formats: tasks: no 'true_or_fals'. Did you mean"):
        parse(mini_run.settings(base, "data.train_formats=[question, true_or_fals]"))
