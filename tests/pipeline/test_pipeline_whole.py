"""A run with every summary: what it measures is in the report, and the base model weighs the replies once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import mini_run
import pytest

from mllmu.core.declared import Declared

WANTED = (
    "unlearn.methods=[ga, retrain]",
    "evaluate.summaries=[all]",
    "evaluate.extra_metrics=[reply_perplexity]",
    "evaluate.max_profiles={forget: 2, test: 1, retain: 1, celebrity: 0, holdout: 1}",
)


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_run.run(base, tmp_path_factory.mktemp("whole") / "run", *WANTED)


def metrics(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "eval/forget_40/metrics.json").read_text("utf-8"))
    return found


def test_every_summary_is_in_the_report(whole: Path) -> None:
    page = (whole / "report/index.html").read_text(encoding="utf-8")
    summaries = {row["summary"] for row in metrics(whole)["summaries"]}
    assert {"membership", "both_ways", "oracle_distance", "diversity"} <= summaries
    for title in (
        "Utility, forgetting, privacy",
        "The same fact",
        "Which facts stay known",
        "Membership",
    ):
        assert title in page
    rows = len(metrics(whole)["summaries"]) + len(metrics(whole)["ks_to_retain_model"])
    assert (whole / "report/summaries.csv").read_text("utf-8").count("\n") == rows + 1


def test_what_the_plug_ins_say_about_their_numbers_travels_with_them(whole: Path) -> None:
    content = metrics(whole)
    declared = Declared.model_validate(content["declared"])
    assert set(declared.metrics) == {row["metric"] for row in content["results"]}
    assert set(declared.splits) == {row["split"] for row in content["results"]}
    assert {name: task.metric for name, task in declared.tasks.items()} == {
        "classification": "accuracy", "generation": "rougeL", "cloze": "cloze_contains",
    }  # fmt: skip
    rows = {(row["summary"], row["detail"]) for row in content["summaries"]} | {("ks_to_retain_model", "")}
    columns = {(c.summary, c.detail) for table in declared.tables for c in table.columns if not c.median}
    assert columns <= rows, "every column has numbers in a whole run"
    assert {summary for summary, _ in columns} == {summary for summary, _ in rows}


def test_replies_are_weighed_by_the_base_and_retrain_like_the_retain_model(whole: Path) -> None:
    rows = [row for row in metrics(whole)["results"] if row["metric"] == "reply_perplexity"]
    values = {(row["model"], row["split"], row["modality"]): row["value"] for row in rows if row["value"] is not None}
    assert values and all(isinstance(value, float) and value >= 1 for value in values.values())
    assert {key[1:]: v for key, v in values.items() if key[0] == "retrain"} == {
        key[1:]: v for key, v in values.items() if key[0] == "retain_model"
    }


def test_what_training_cost_is_recorded_and_shown(whole: Path) -> None:
    facts = json.loads((whole / "models/forget_40/ga/unit.json").read_text("utf-8"))["facts"]
    assert facts["trainable"] > 0 and facts["tokens_per_s"] > 0
    assert f"{facts['trainable']:,}" in (whole / "report/index.html").read_text(encoding="utf-8")


def test_retraining_costs_what_it_costs(whole: Path) -> None:
    rows = list(csv.DictReader((whole / "report/tradeoff.csv").read_text("utf-8").splitlines()))
    cost = {row["model"]: row["seconds"] for row in rows}
    assert cost["retrain"] == cost["retain_model"] != cost["ga"]


def test_the_same_command_again_weighs_nothing_and_gives_the_same_numbers(base: Path, whole: Path) -> None:
    before, times = mini_run.fingerprints(whole, "eval/**/*.json*"), mini_run.unit_times(whole)
    mini_run.run(base, whole, *WANTED)
    assert mini_run.fingerprints(whole, "eval/**/*.json*") == before
    assert mini_run.unit_times(whole) == times
