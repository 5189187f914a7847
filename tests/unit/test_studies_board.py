"""Boards of many runs: what is pooled and what is not, ranks by hand, submitted results, and the page."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers_scores import make_run, sets
from typer.testing import CliRunner

from mllmu.cli.app import app
from mllmu.core.errors import DataError, ModelError
from mllmu.core.probed import ProbeShare
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import RunFolder, seal, write_json
from mllmu.studies.board import board_setups, pooled_setup, save_result
from mllmu.studies.board_page import write_board, write_index
from mllmu.studies.person_scores import save
from mllmu.studies.result import RunResult
from mllmu.studies.setups import differences

KNOWN = {
    "target": sets(1.0, 1.0, 0.8),
    "retain_model": sets(0.2, 1.0, 0.8),
    "near": sets(0.2, 0.9, 0.8),
    "far": sets(0.6, 0.5, 0.5),
    "also_far": sets(0.6, 0.5, 0.5),
}


def run_of(root: Path, *, seed: int = 0, known: dict[str, dict[str, float]] | None = None, **changed: object) -> Path:
    """A scored run with a recipe; ``changed`` are sections of it."""
    make_run(root, known or KNOWN)
    recipe = {"name": root.name, "seed": seed, "finetune": {"epochs": 3, "lora": None}, **changed}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return root


def test_runs_with_other_seeds_names_and_machines_are_one_setup(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "b", seed=1, workers=2, report={"title": "B"})]
    (setup,) = board_setups(runs)
    assert (setup.label, setup.seeds, {row.runs for row in setup.rows}) == ("", [0, 1], {2})


def test_pool_refuses_runs_of_two_recipes_and_names_what_differs(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "b", seed=1, finetune={"epochs": 5, "lora": None})]
    with pytest.raises(DataError, match=r"cannot be pooled: finetune\.epochs is 3 and 5\. .*mllmu board"):
        pooled_setup(runs)


def test_the_same_seed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the same recipe with the same seed 0"):
        board_setups([run_of(tmp_path / "a"), run_of(tmp_path / "b")])


def test_a_grid_is_a_board_labelled_by_what_varies(tmp_path: Path) -> None:
    grid = tmp_path / "grid"
    for number, (epochs, rank) in enumerate([(3, 8), (3, 16), (5, 8)]):
        run_of(grid / str(number), finetune={"epochs": epochs, "lora": {"rank": rank}})
    assert [setup.label for setup in board_setups([grid])] == [
        "epochs 3, rank 8",
        "epochs 3, rank 16",
        "epochs 5, rank 8",
    ]


def test_every_ratio_is_a_setup_and_pool_takes_the_first(tmp_path: Path) -> None:
    root = run_of(tmp_path / "a")
    (root / "eval/forget_10").rename(root / "eval/forget_15")
    make_run(root, KNOWN)
    assert [setup.label for setup in board_setups([root])] == ["forget 10 %", "forget 15 %"]
    assert [setup.label for setup in board_setups([root], ratio="15")] == [""]
    assert pooled_setup([root]).rows == pooled_setup([root], ratio="10").rows
    with pytest.raises(DataError, match=r"no evaluation at 20 %\. There are: 10, 15 %"):
        pooled_setup([root], ratio="20")


def test_labels_that_were_cut_short_stay_apart(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / str(i), unlearn={"methods": ["x" * 50, i]}) for i in range(2)]
    first, second = (setup.label for setup in board_setups(runs))
    assert first.endswith("... (1)") and second.endswith("... (2)")


def test_many_differences_are_counted() -> None:
    assert differences({}, dict.fromkeys("abcde", "1")).endswith("c is not set and 1 and 2 more settings")


def test_a_system_prompt_that_the_target_does_not_take_is_named_on_the_board_and_in_submitted_results(
    tmp_path: Path,
) -> None:
    run, other = run_of(tmp_path / "a"), run_of(tmp_path / "b", seed=1)
    kept = ProbeShare(num=24, right=10, low=0.24, high=0.61)
    gate = run / RunFolder.evaluation("10") / RunFolder.GATE_FILE
    gate.write_text(json.dumps(seal({"probes": {"instructions": kept.model_dump()}})), encoding="utf-8")
    assert pooled_setup([run, other]).note == "", "without the models nothing is known of them"
    for name, how in {"target": {}, "near": {"system_prompt": "Decline."}, "far": {"adapters": ("x",)}}.items():
        unit = run / RunFolder.model_unit("10", name)
        unit.mkdir(parents=True, exist_ok=True)
        text = ModelRef(base="tiny", **how).model_dump_json()  # type: ignore[arg-type]
        (unit / RunFolder.MODEL_FILE).write_text(text, encoding="utf-8")
    (setup,) = board_setups([run, other])
    assert setup.unjudged == ("near",) and setup.note.startswith("near: the target takes no system prompt")
    page = write_board(tmp_path / "board", "Board", [setup], bound=0.05)
    assert page.read_text(encoding="utf-8").count(setup.note.replace("'", "&#39;")) == 1
    submitted = page.parent / "results/scores.json"
    assert board_setups([submitted])[0].unjudged == ("near",)
    facts = json.loads(submitted.read_text(encoding="utf-8"))
    for odd in (5, "near", {"near": 1}, ["<script>", None]):
        submitted.write_text(json.dumps({**facts, "unjudged": odd}), encoding="utf-8")
        assert board_setups([submitted])[0].unjudged == ()
    said = CliRunner().invoke(app, ["pool", str(run), str(other)])
    assert setup.note in " ".join(said.output.split())


def test_a_run_is_called_by_its_folder_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_of(tmp_path / "a"))
    assert [run.name for run in pooled_setup([Path()]).runs] == ["a"]


def test_a_result_that_is_nested_too_deep_is_none(tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(DataError, match="no result of 'mllmu board'"):
        board_setups([path])


def test_ranks_by_hand(tmp_path: Path) -> None:
    """``near`` is first in every draw; the two others are equal in all of them and share the second rank."""
    (setup,) = board_setups([run_of(tmp_path / "a")])
    ranks = {row.model: row.rank for row in setup.rows}
    assert ranks == {"target": None, "retain_model": None, "near": (1, 1, 1), "far": (2, 2, 2), "also_far": (2, 2, 2)}


def test_ranks_that_change_from_run_to_run_have_a_span(tmp_path: Path) -> None:
    swapped = {**KNOWN, "near": KNOWN["far"], "far": KNOWN["near"]}
    (setup,) = board_setups([run_of(tmp_path / "a"), run_of(tmp_path / "b", seed=1, known=swapped)])
    near = next(row for row in setup.rows if row.model == "near")
    assert near.rank is not None
    assert near.rank[1:] == (1, 2), "first in draws of the first run alone, behind the other in those of the second"


def test_a_board_is_written_and_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "b", finetune={"epochs": 5, "lora": None})]
    pages = [write_board(tmp_path / f"board_{i}", "<b>", board_setups(runs), bound=0.05) for i in range(2)]
    first, second = ([p.read_bytes() for p in sorted(page.parent.rglob("*")) if p.is_file()] for page in pages)
    assert first == second
    text = pages[0].read_text(encoding="utf-8")
    assert "&lt;b&gt;" in text and "<b>" not in text.split("</header>")[0]
    assert "epochs 5" in text and "data-filter" in text and "sha256-" in text
    rows = [*csv.DictReader((pages[0].parent / "board.csv").read_text(encoding="utf-8").splitlines())]
    near = next(row for row in rows if row["model"] == "near")
    assert (near["rank"], near["surplus"], near["cost"]) == ("1", "0.000000", "0.050000")
    assert "## epochs 3" in (pages[0].parent / "board.md").read_text(encoding="utf-8")


def test_a_submitted_result_is_computed_again_from_its_scores(tmp_path: Path) -> None:
    (setup,) = board_setups([run_of(tmp_path / "a", seed=7)])
    result = save_result(tmp_path / "results", "mine", setup)
    (again,) = board_setups([result])
    assert (again.rows, again.pairs, again.seeds, again.settings) == (setup.rows, setup.pairs, [7], setup.settings)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.with_suffix(".csv").write_text(path.with_suffix(".csv").read_text() + "\n"), "SHA-256"),
        (lambda path: path.with_suffix(".csv").unlink(), "raw scores are there"),
        (lambda path: path.write_text("[]"), "no result of 'mllmu board'"),
        (lambda path: path.write_text("{"), "no result of 'mllmu board'"),
        (lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9})), "format 9"),
    ],
    ids=["changed scores", "missing scores", "a list", "no JSON", "another format"],
)
def test_a_result_that_is_not_what_it_says_is_refused(tmp_path: Path, damage: object, message: str) -> None:
    (setup,) = board_setups([run_of(tmp_path / "a")])
    result = save_result(tmp_path / "results", "mine", setup)
    damage(result)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        board_setups([result])


def test_the_command_writes_a_board_and_pool_takes_a_grid(tmp_path: Path) -> None:
    grid = tmp_path / "seeds"
    for seed in range(2):
        run_of(grid / f"seed_{seed}", seed=seed)
    done = CliRunner().invoke(app, ["board", str(grid), "--out", str(tmp_path / "board")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "board/index.html").is_file() and (tmp_path / "board/results/scores.json").is_file()
    done = CliRunner().invoke(app, ["pool", str(grid)])
    assert done.exit_code == 0 and "over 2 runs" in done.output and "against retain_model" in done.output


def test_the_first_page_of_a_grid_links_its_reports_and_says_why_there_is_no_board(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "a"), run_of(tmp_path / "b", seed=1, known={"target": KNOWN["target"]})]
    for run in runs:
        (run / "report").mkdir()
        (run / "report/index.html").write_text("")
    page = write_index(tmp_path, "grid", runs).read_text(encoding="utf-8")
    assert "No board: a, b: no unlearned model is in all of them" in page and 'href="b/report/index.html"' in page
    assert "No board: nothing has been evaluated yet" in write_index(tmp_path / "none", "grid", []).read_text("utf-8")
    (runs[1] / "eval/forget_10/samples.jsonl").write_text("{", encoding="utf-8")
    page = write_index(tmp_path, "grid", runs).read_text(encoding="utf-8")
    assert "samples.jsonl: damaged" in page and 'href="a/report/index.html"' in page
    page = write_index(tmp_path, "grid", runs[:1]).read_text(encoding="utf-8")
    assert "No board" not in page and 'href="a/report/index.html"' in page


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["board", str(tmp_path), "--out", str(tmp_path / "board")])
    assert done.exit_code == 2 and "holds no evaluation" in done.output and not (tmp_path / "board").exists()


def test_a_board_is_not_written_into_a_folder_of_others(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/index.html").write_text("my page", encoding="utf-8")
    (tmp_path / "mine/note.txt").write_text("mine", encoding="utf-8")
    command = ["board", str(run_of(tmp_path / "a")), "--out"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "mine")])
    assert done.exit_code == 2 and "was not made by mllmu" in done.output
    assert (tmp_path / "mine/index.html").read_text(encoding="utf-8") == "my page"
    for _ in range(2):
        assert CliRunner().invoke(app, [*command, str(tmp_path / "board")]).exit_code == 0
    assert CliRunner().invoke(app, [*command, ""]).exit_code == 2


def test_runs_of_one_seed_that_forget_other_prescribed_people_are_one_setup(tmp_path: Path) -> None:
    """The ids count where the run has its data, however the file is called; else the name of the file."""
    runs = [
        run_of(tmp_path / name, data={"splits": {"file": f"{name}.json", "keys": ["a"], "forget_ratios": [0.1]}})
        for name in ("first", "other", "copy")
    ]
    assert len(board_setups(runs[:2])[0].runs) == 2
    for root, ids in zip(runs, (["001", "002"], ["002", "003"], ["002", "001"]), strict=True):
        (root / "data").mkdir()
        (root / "data/splits.json").write_text(json.dumps({"10": ids, "holdout": ["h1"]}), encoding="utf-8")
    assert len(board_setups(runs[:2])[0].runs) == 2
    with pytest.raises(DataError, match=r"first and .*copy: the same recipe with the same seed 0"):
        board_setups(runs)


def test_the_smallest_ratio_comes_first_by_number_and_is_named(tmp_path: Path) -> None:
    """Sorted as text, 10 would come before 5."""
    root = run_of(tmp_path / "a")
    for key in ("5", "12.5", "100"):
        shutil.copytree(root / "eval/forget_10", root / f"eval/forget_{key}")
    assert RunFolder(root).evaluated_keys() == ["5", "10", "12.5", "100"]
    assert [setup.ratio for setup in board_setups([root])] == ["5", "10", "12.5", "100"]
    assert pooled_setup([root]).ratio == "5"
    done = CliRunner().invoke(app, ["pool", str(root)])
    assert "Points of 100 over 1 run at 5 % forgotten;" in " ".join(done.output.split())
    kept = tmp_path / "scores.csv"
    save(kept, pooled_setup([root], ratio="10").scores)
    assert pooled_setup([kept]).ratio == "", "a file of scores does not say"


def test_a_model_is_opened_by_the_ratio_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = run_of(tmp_path / "a")
    for key, model in (("5", "npo"), ("10", "npo"), ("10", "ga")):
        write_json(root / f"models/forget_{key}/{model}/model.json", {"base": "tiny", "adapters": [f"{key}/{model}"]})
    shutil.copytree(root / "eval/forget_10", root / "eval/forget_5")
    write_json(root / "run.json", {"status": "done"})
    opened = SimpleNamespace(model=None, encoder=SimpleNamespace(processor=None))
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr("mllmu.models.loading.load", lambda _, ref, __: asked.append(ref.adapters) or opened)
    (root / "recipe.yaml").write_text("name: a\n")
    run = RunResult(root)
    for name, ratio in (
        ("forget_5/npo", None),
        ("forget_10/npo", None),
        ("forget_10/ga", "10"),
        ("npo", "10"),
        ("npo", None),
    ):
        run.model(name, ratio)
    assert asked == [("5/npo",), ("10/npo",), ("10/ga",), ("10/npo",), ("5/npo",)]
    with pytest.raises(ModelError, match=r"model 'forget_5/npo' and ratio '10' are two forget ratios\. Name one"):
        run.model("forget_5/npo", "10")
    with pytest.raises(ModelError, match="no model 'forget_5/ga'"):
        run.model("ga", "5")
