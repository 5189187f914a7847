"""Commands that only read, variants that share what is the same, and what is told of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import mini_run
import pytest
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.config.given import given_recipes
from mllmu.config.load import parse
from mllmu.config.variants import conflict, default_folder
from mllmu.core.lock import held


@pytest.fixture
def project(base: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the recipe and, in ``runs/mini``, a copy of the finished run."""
    monkeypatch.chdir(tmp_path)
    mini_run.write_recipe(tmp_path / "mini.yaml", base)
    shutil.copytree(finished, "runs/mini")
    return tmp_path


def mllmu(*words: str, width: int = 200) -> tuple[int, str]:
    """A command in this process: its exit code, and what it says."""
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": str(width)})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("command", ["report", "score", "judge", "pool", "board", "status", "export-model"])
def test_a_command_that_reads_makes_nothing_where_there_is_no_run(project: Path, command: str) -> None:
    more = {"export-model": ["target", "there"]}.get(command, [])
    target = ["mini.yaml", "--out", "none"] if command in ("report", "score", "judge") else ["none"]
    before = sorted(project.rglob("*"))
    code, said = mllmu(command, *target, *more)
    assert code == 2 and "none" in said and sorted(project.rglob("*")) == before


@pytest.mark.parametrize("command", ["report", "score"])
def test_a_command_that_reads_takes_the_run_folder_itself_and_trains_nothing(project: Path, command: str) -> None:
    before = mini_run.unit_times(project / "runs/mini")
    metrics = mini_run.fingerprints(project / "runs/mini", "eval/*/metrics.json")
    page = project / "runs/mini/report/index.html"
    page.unlink()
    code, said = mllmu(command, "runs/mini")
    assert code == 0, said
    after = mini_run.unit_times(project / "runs/mini")
    assert {name for name in before if after[name] != before[name]} <= {n for n in before if n.endswith("/scores")}
    assert mini_run.fingerprints(project / "runs/mini", "eval/*/metrics.json") == metrics
    assert page.is_file() == (command == "report")


@pytest.mark.parametrize("gone", ["models/forget_40/npo", "eval/forget_40/ga/responses", "models/target", "data"])
def test_a_command_that_reads_names_what_is_missing_and_does_not_make_it(project: Path, gone: str) -> None:
    shutil.rmtree(project / "runs/mini" / gone)
    code, said = mllmu("report", "runs/mini")
    assert code == 2 and gone in said and "only reads" in said
    assert not (project / "runs/mini" / gone).exists()


def test_a_setting_of_a_finished_run_makes_a_sibling_that_shares_what_is_the_same(project: Path) -> None:
    code, said = mllmu("run", "mini.yaml", "--no-check", "--set", "unlearn.methods.1.beta=0.7")
    assert code == 0, said
    sibling = project / "runs/mini+beta-0.7"
    assert "report: runs/mini+beta-0.7/report/index.html" in said and "shares unchanged work with runs/mini" in said
    for same in ("data", "models/target", "models/forget_40/ga", "eval/forget_40/ga/responses"):
        assert (sibling / same / "unit.json").samefile(project / "runs/mini" / same / "unit.json"), same
    changed = "models/forget_40/npo/unit.json"
    assert (project / "runs/mini" / changed).read_bytes() != (sibling / changed).read_bytes()
    assert mllmu("report", "runs/mini+beta-0.7")[0] == 0
    code, said = mllmu("run", "mini.yaml", "--set", "unlearn.methods.1.beta=0.7")
    assert code == 0 and "runs/mini+beta-0.7" in said


def test_what_can_be_added_to_a_run_stays_in_its_folder(base: Path, project: Path) -> None:
    recipe = given_recipes(Path("mini.yaml"))[0].recipe
    summaries = "evaluate.summaries=[forget_quality]"
    for override in ("report.num_examples=0", summaries, "model.device=cpu", "unlearn.methods=[ga]"):
        changed = parse(mini_run.settings(base, override))
        assert default_folder(changed, "", [override]) == Path("runs/mini"), override
    for override in (
        "seed=3", "seeds.teach=1", "seeds.unlearn=1", "seeds.evaluate=1", "unlearn.requests=2", "finetune.epochs=3",
        "evaluate.max_profiles.retain=2", "unlearn.lora.rank=2",
    ):  # fmt: skip
        changed = parse(mini_run.settings(base, override))
        assert override.partition("=")[0].rpartition(".")[2] in conflict(recipe, changed), override
        name = f"runs/mini+{override.partition('=')[0].rpartition('.')[2]}-{override[-1]}"
        assert default_folder(changed, "", [override]) == Path(name)
    long = [f"evaluate.vllm.{'x' * 70}=1", "seed=3"]
    folder = default_folder(parse(mini_run.settings(base, "seed=3")), "", long)
    assert len(folder.name) <= 70 and folder.name.startswith("mini+")


def test_status_and_ls_runs_say_what_there_is(project: Path) -> None:
    code, said = mllmu("status", "runs/mini")
    assert code == 0 and "runs/mini: done" in said and "forgetting 40 %" in said and "report: runs/mini/report" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if "done" in line and ":" not in line}
    assert rows == {model: ["done"] * 3 for model in mini_run.MODELS}
    shutil.rmtree(project / "runs/mini/models/forget_40/npo")
    assert "npo           -" in mllmu("status", "runs/mini")[1]
    code, said = mllmu("ls", "runs")
    assert code == 0 and "mini" in said.splitlines()[1] and "done" in said and "MiB" in said
    assert mllmu("ls", "runs", "elsewhere")[0] == 2


def test_rm_removes_a_run_and_nothing_else(project: Path) -> None:
    (project / "mine").mkdir()
    (project / "mine/note.txt").write_text("mine", encoding="utf-8")
    code, said = mllmu("rm", "--yes", "runs/mini", "mine")
    assert code == 2 and "mine: is no run folder" in said and (project / "runs/mini").is_dir()
    with held(project / "runs/mini"):
        code, said = mllmu("rm", "--yes", "runs/mini")
        assert code == 2 and "is at work in this run folder" in said
    done = CliRunner().invoke(app, ["rm", "runs/mini"], input="n\n")
    assert done.exit_code == 0 and (project / "runs/mini").is_dir()
    code, said = mllmu("rm", "--yes", "runs/mini")
    assert code == 0 and not (project / "runs/mini").exists() and list((project / "runs").iterdir()) == []


@pytest.mark.parametrize("typed", [".", "..", "../mini"])
def test_rm_takes_a_folder_by_any_path(project: Path, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / ("runs/mini/eval" if typed == ".." else "runs/mini"))
    code, said = mllmu("rm", "--yes", typed)
    assert code == 0 and f"removed {typed}" in said
    assert list((project / "runs").iterdir()) == []


def test_rm_follows_no_link(project: Path) -> None:
    Path("link").symlink_to("runs/mini", target_is_directory=True)
    code, said = mllmu("rm", "--yes", "link")
    assert code == 2 and "link: is no run folder" in said and (project / "runs/mini/recipe.yaml").is_file()


def test_what_a_seed_changes_is_made_beside_the_run(project: Path) -> None:
    before = mini_run.unit_times(project / "runs/mini")
    code, said = mllmu("run", "mini.yaml", "--no-check", "--set", "seeds.evaluate=5")
    assert code == 0, said
    assert mini_run.unit_times(project / "runs/mini") == before
    sibling = project / "runs/mini+evaluate-5"
    assert (sibling / "models/target/unit.json").samefile(project / "runs/mini/models/target/unit.json")
    assert mllmu("report", "runs/mini")[0] == 0


def test_a_file_without_a_place_is_said_before_the_folder_is_made(project: Path) -> None:
    code, said = mllmu("run", "mini.yaml", "--out", "new", "--set", "model.path=/no/such/folder")
    assert code == 2 and "/no/such/folder: no such file or folder" in said and not Path("new").exists()


def test_the_report_says_what_was_forgotten_and_no_internal_names(project: Path) -> None:
    page = (project / "runs/mini/report/index.html").read_text(encoding="utf-8")
    assert "2 of 5 people forgotten (40 %)" in page
    text = page.partition("<main>")[2].partition('<pre id="metric-data"')[0]
    assert "fact_" not in text and ":class:" not in page and ":func:" not in page
