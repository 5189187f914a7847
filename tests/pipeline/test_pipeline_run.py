"""One recipe end to end: everything is there, nothing is done twice, and the numbers are the same every time."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from mini_run import JOBS, MODELS, fingerprints, run, settings, unit_times, without_digests, write_recipe
from rich.console import Console
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import mllmu
from mllmu.cli.app import app
from mllmu.config.load import load, parse
from mllmu.core.errors import GateError, RunStoreError
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import read_lines
from mllmu.evaluation.metrics import is_broken
from mllmu.pipeline.pipeline import Pipeline
from mllmu.training.loop import CURVE

OWN = '''
from typing import Any, ClassVar

from mllmu.training.losses import answer_nll
from mllmu.unlearning.base import Method, Step


class Halved(Method):
    """Half as much ascent. Cost: one pass a step."""

    source: ClassVar[str] = "https://example.org"
    part: float = 0.5

    def loss(self, step: Step) -> dict[str, Any]:
        return {"forget_half": -self.part * answer_nll(step.forget.current)}
'''


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def results(root: Path, key: str = "40") -> list[dict[str, Any]]:
    content: dict[str, list[dict[str, Any]]] = json.loads((root / f"eval/forget_{key}/metrics.json").read_text())
    return content["results"]


def reported(root: Path) -> set[str]:
    """The models in the table beside the report."""
    with (root / "report" / "tradeoff.csv").open(encoding="utf-8") as file:
        return {row["model"] for row in csv.DictReader(file)}


def replies(root: Path, model: str) -> list[Response]:
    return read_lines(root / f"eval/forget_40/{model}/responses/responses.jsonl", Response)


def test_every_stage_left_its_files(finished: Path, base: Path) -> None:
    assert load(finished / "recipe.yaml") == parse(settings(base))
    assert json.loads((finished / "run.json").read_text())["status"] == "done"
    units = {"data", "models/target"} | {f"models/forget_40/{name}" for name in MODELS[1:]}
    units |= {f"eval/forget_40/{name}/{what}" for name in MODELS for what in ("responses", "scores")}
    units |= {"controls/forget_40/target/responses", "probes/forget_40/letters/target/responses"}  # of the gate
    assert set(unit_times(finished)) == units
    trained = ["target", "forget_40/retain_model", "forget_40/ga", "forget_40/npo"]
    for name in trained:
        assert (finished / "models" / name / "adapter_model.safetensors").is_file()
        assert (finished / "models" / name / CURVE).is_file()
    assert len(list(finished.glob("models/**/adapter_model.safetensors"))) == len(trained)
    assert {path.name for path in finished.rglob(".*")} <= {".base.json", ".mllmu"}, "no unfinished file is left"


def test_the_report_is_one_page_with_every_model_and_a_table_beside_it(finished: Path) -> None:
    page = (finished / "report" / "index.html").read_text(encoding="utf-8")
    assert all(name in page for name in MODELS)
    assert set(MODELS) <= reported(finished)


def test_every_model_answered_the_same_questions_of_all_five_sets(finished: Path) -> None:
    asked = [[reply.sample_id for reply in replies(finished, name)] for name in MODELS]
    assert all(ids == asked[0] for ids in asked)
    assert {name.partition("/")[0] for name in asked[0]} == {"forget", "test", "retain", "celebrity", "holdout"}
    numbers = {(r["metric"], r["split"], r["task"], r["modality"]) for r in results(finished)}
    for model in MODELS:
        rows = [r for r in results(finished) if r["model"] == model]
        assert {(r["metric"], r["split"], r["task"], r["modality"]) for r in rows} == numbers
        assert len(rows) == len(numbers)


def test_training_changed_the_models_and_each_in_its_own_way(finished: Path) -> None:
    logps = {
        name: tuple(c.logp for r in replies(finished, name) for c in r.candidates.values())
        for name in ("target", "retain_model", "ga", "npo", "prompting")
    }
    assert len(set(logps.values())) == len(logps)
    curve = json.loads((finished / "models/target" / CURVE).read_text())
    assert curve[-1]["nll"] < curve[0]["nll"] - 1


def test_ascent_makes_the_forgotten_answers_less_likely(finished: Path) -> None:
    def likelihood(model: str) -> float:
        forget = [r for r in replies(finished, model) if r.sample_id.startswith("forget/") and "target" in r.candidates]
        return sum(r.candidates["target"].logp for r in forget) / len(forget)

    assert likelihood("ga") < likelihood("target")


def test_retrain_is_the_retain_model_row_by_row(finished: Path) -> None:
    assert replies(finished, "retrain") == replies(finished, "retain_model")
    rows = {
        name: [{**row, "model": ""} for row in results(finished) if row["model"] == name]
        for name in ("retrain", "retain_model")
    }
    assert rows["retrain"] and rows["retrain"] == rows["retain_model"]


def test_a_finished_run_recomputes_nothing(copied: Path, base: Path) -> None:
    before, files = unit_times(copied), fingerprints(copied, "eval/**/*") | fingerprints(copied, "models/**/*")
    run(base, copied, only="score")
    after = unit_times(copied)
    scores = {name for name in before if name.endswith("/scores")}
    assert {name for name in before if after[name] != before[name]} == scores, "judging alone is done again when asked"
    run(base, copied, only="evaluate")
    assert unit_times(copied) == after
    changed = {name for name, digest in fingerprints(copied, "**/*").items() if files.get(name, digest) != digest}
    assert all("/scores/" in name for name in changed), "seconds may differ, scores may not"
    assert not [name for name in changed if name.endswith("scores.jsonl")]


def test_scoring_alone_needs_no_weights_and_keeps_the_replies(copied: Path, base: Path) -> None:
    metrics = copied / "eval/forget_40/metrics.json"
    before = metrics.read_bytes()
    metrics.unlink()
    for weights in copied.rglob("*.safetensors"):
        weights.unlink()
    run(base, copied, only="score")
    assert metrics.read_bytes() == before
    assert all(replies(copied, name) for name in MODELS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("finetune.epochs=3", r"models/target: was made with other settings: finetune\.epochs was 2\.0, is now 3\.0"),
        ("seed=1", r"data: was made with other settings: seed was 0, is now 1"),
        ("data.splits.forget_ratios=[0.2]", r"settings\.splits\.forget_ratios was \[0\.4\], is now \[0\.2\]"),
        ("unlearn.methods.1.beta=0.7", r"forget_40/npo: was made with other settings: settings\.beta was 0\.4, is now"),
        ("unlearn.lora.rank=2", r"forget_40/ga: was made with other settings: lora\.rank was 4, is now 2"),
        ("evaluate.max_profiles.retain=2", r"responses: was made with other settings: samples was"),
    ],
)
def test_another_setting_is_an_error_that_names_it_and_changes_nothing(
    change: str, said: str, copied: Path, base: Path
) -> None:
    before = fingerprints(copied, "**/*")
    with pytest.raises(RunStoreError, match=rf"{said}.*--force.*--out"):
        run(base, copied, change)
    after = fingerprints(copied, "**/*")
    assert {name for name in before if after.get(name) != before[name]} <= {"run.json"}
    assert json.loads((copied / "run.json").read_text())["status"] == "failed"


def test_what_changes_no_result_may_be_changed(copied: Path, base: Path) -> None:
    before = unit_times(copied)
    run(base, copied, "evaluate.batch_size=7", "finetune.checkpoint_every_s=5", "report.title=Another", only="evaluate")
    assert unit_times(copied) == before


def test_a_setting_of_one_method_leaves_the_others_alone_with_force(copied: Path, base: Path) -> None:
    before = unit_times(copied)
    run(base, copied, "unlearn.methods.1.beta=0.7", only="unlearn", force=True)
    after = unit_times(copied)
    redone = {name for name in before if after.get(name) != before[name]}
    assert "models/forget_40/npo" in redone
    assert not redone & {"data", "models/target", "models/forget_40/retain_model"}


def test_forcing_one_stage_keeps_the_earlier_ones_and_gives_the_same_again(copied: Path, base: Path) -> None:
    before, weights = unit_times(copied), fingerprints(copied, "models/**/*.safetensors")
    images = fingerprints(copied, "data/images/*")
    run(base, copied, only="finetune", force=True)
    after = unit_times(copied)
    assert {name for name in before if after[name] != before[name]} == {
        "models/target",
        "models/forget_40/retain_model",
    }
    assert fingerprints(copied, "models/**/*.safetensors") == weights
    assert fingerprints(copied, "data/images/*") == images


def test_a_fresh_run_gives_the_same_bytes(finished: Path, base: Path, tmp_path: Path) -> None:
    again = run(base, tmp_path / "again", only="score")
    for pattern in ("eval/*/metrics.json", "eval/**/*.jsonl", "models/**/*.safetensors", "data/images/*"):
        found = fingerprints(finished, pattern)
        assert found
        assert fingerprints(again, pattern) == found


def test_replies_do_not_depend_on_the_batch_size(copied: Path, finished: Path, base: Path) -> None:
    for name in ("target", "prompting"):
        shutil.rmtree(copied / f"eval/forget_40/{name}/responses")
    run(base, copied, "evaluate.batch_size=5", only="evaluate")
    for name in ("target", "prompting"):
        ours, theirs = replies(copied, name), replies(finished, name)
        assert [(r.sample_id, r.text, r.num_tokens) for r in ours] == [
            (r.sample_id, r.text, r.num_tokens) for r in theirs
        ]
        for one, other in zip(ours, theirs, strict=True):
            assert {k: c.logp for k, c in one.candidates.items()} == pytest.approx(
                {k: c.logp for k, c in other.candidates.items()}, abs=1e-3
            )


@pytest.mark.slow
def test_a_method_in_a_file_of_the_users_own_runs_and_is_reported(
    copied: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zz_own.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = unit_times(copied)
    methods = (
        "[ga, {name: npo, batch_size: 8}, prompting, retrain, 'zz_own:Halved', {name: 'zz_own:Halved', part: 0.1}]"
    )
    run(base, copied, f"unlearn.methods={methods}")
    after = unit_times(copied)
    assert {name for name in before if after[name] != before[name]} == set(), "only the new models are made"
    assert {"Halved", "Halved_2", *JOBS} <= reported(copied)
    curve = json.loads((copied / "models/forget_40/Halved" / CURVE).read_text())
    assert all("forget_half" in point for point in curve)


def test_the_gate_stops_a_target_that_knows_nobody_and_no_gate_goes_on_with_a_warning(
    copied: Path, base: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "gated.yaml", base, "gate=true")
    stopped = CliRunner().invoke(app, ["run", str(recipe), "--out", str(copied)])
    assert stopped.exit_code == 2
    assert "error: memorisation gate: the target is not significantly better on the forget people" in stopped.stderr
    assert "--no-gate" in stopped.stderr
    with pytest.raises(GateError):
        run(base, copied, "gate=true")
    went_on = CliRunner().invoke(app, ["run", str(recipe), "--out", str(copied), "--no-gate"])
    assert went_on.exit_code == 0, went_on.stderr
    assert "The memorisation gate is not passed" in (copied / "report/index.html").read_text(encoding="utf-8")


def test_a_model_with_broken_weights_is_named_and_stops_nothing(base: Path, tmp_path: Path) -> None:
    how = (
        "unlearn.methods=[{name: task_vector, epochs: 1}, prompting]",
        "evaluate.summaries=[all]",
        "evaluate.extra_metrics=[exact_memorisation]",
    )
    root = run(base, tmp_path / "run", *how, only="unlearn")
    weights = without_digests(root / "models/forget_40/task_vector") / "adapter_model.safetensors"
    save_file({name: part * math.nan for name, part in load_file(weights).items()}, weights)
    run(base, run(base, root, *how, only="evaluate"), *how)
    content = json.loads((root / "eval/forget_40/metrics.json").read_text(encoding="utf-8"))
    responses = replies(root, "task_vector")
    assert content["broken"] == {"task_vector": sum(map(is_broken, responses))}
    assert content["broken"]["task_vector"] > len(responses) / 2
    found = {(row["model"], row["metric"]): row["value"] for row in content["results"] if row["split"] == "forget"}
    for metric in ("probability", "accuracy_logp", "exact_memorisation"):
        assert found["task_vector", metric] is None and found["prompting", metric] is not None
    assert found["task_vector", "right"] is not None
    page = (root / "report/index.html").read_text(encoding="utf-8")
    assert "Likelihoods that are no numbers: task_vector" in page


def test_several_ratios_share_the_target_and_one_page_leads_to_all(base: Path, tmp_path: Path) -> None:
    ratios, methods = "data.splits.forget_ratios=[0.05, 0.4]", "unlearn.methods=[prompting]"
    few = ("evaluate.tasks=[classification]", "report.reference_rows=true")
    root = mllmu.run(parse(settings(base, ratios, methods, *few)), tmp_path / "run")
    page = (root / "report/index.html").read_text(encoding="utf-8")
    for key, count in (("5", 1), ("40", 2)):
        assert f'href="forget_{key}/index.html"' in page
        report = (root / f"report/forget_{key}/index.html").read_text(encoding="utf-8")
        assert ("5 % forgotten: published" in report) == (key == "5"), "the paper's rows are about 5 % alone"
        asked = read_lines(root / f"eval/forget_{key}/samples.jsonl", Sample)
        assert len({s.profile_id for s in asked if s.split == "forget"}) == count
        assert {p.name for p in (root / f"models/forget_{key}").iterdir()} == {"retain_model", "prompting"}
    splits = json.loads((root / "data/splits.json").read_text())
    assert set(splits["5"]) < set(splits["40"])


@pytest.mark.slow
def test_a_full_disk_is_one_message_and_the_run_goes_on_when_there_is_room(
    finished: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, real, written = tmp_path / "run", os.fsync, 0
    for most in (10, 60):  # while the images are drawn; while models are made and asked

        def fsync(descriptor: int, most: int = most) -> None:
            nonlocal written
            written += 1
            if written > most:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        written = 0
        with monkeypatch.context() as patch, pytest.raises(RunStoreError, match=r"cannot be written .*No space left"):
            patch.setattr(os, "fsync", fsync)
            run(base, root, only="score")
    run(base, root, only="score")
    assert fingerprints(root, "eval/*/metrics.json") == fingerprints(finished, "eval/*/metrics.json")


def test_a_run_folder_that_is_a_file_is_one_message(base: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    recipe = write_recipe(tmp_path / "mini.yaml", base)
    result = CliRunner().invoke(app, ["data", str(recipe), "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1 and "--out" in result.stderr


def test_the_terminal_table_has_a_row_per_model(finished: Path, base: Path) -> None:
    pipeline = Pipeline(parse(settings(base)), finished)
    pipeline.run("evaluate")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(pipeline.terminal_table())
    shown = console.export_text()
    assert all(name in shown for name in MODELS)


def test_a_model_depends_on_its_settings_and_not_on_its_name_its_place_or_its_neighbours(
    base: Path, tmp_path: Path
) -> None:
    dropout = ("unlearn.lora.dropout=0.3", "finetune.epochs=1", "data.celebrities=null")
    one = run(base, tmp_path / "one", *dropout, "unlearn.methods=[ga]", only="unlearn")
    many = "[npo, {name: idk, modality: text}, ga, {name: ga, modality: [image_text]}, {name: idk, modality: [text]}]"
    other = run(base, tmp_path / "other", *dropout, f"unlearn.methods={many}", only="unlearn")
    weights = fingerprints(other / "models/forget_40", "*/adapter_model.safetensors")
    alone = fingerprints(one / "models/forget_40", "ga/adapter_model.safetensors")["ga/adapter_model.safetensors"]
    assert weights["ga/adapter_model.safetensors"] == alone == weights["ga_image_text/adapter_model.safetensors"]
    assert weights["idk/adapter_model.safetensors"] == weights["idk_text/adapter_model.safetensors"] != alone
