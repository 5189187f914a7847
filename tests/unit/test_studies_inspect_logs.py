"""Logs for Inspect hold what a report counts: neither tuning questions nor their scores, nor a model that is not there.

Inspect itself is stood in for: what its writer is given is looked at.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from helpers_explorer import make_evaluated_run

from mllmu.config.load import parse
from mllmu.studies.exports.inspect_logs import write_logs

MODULES = {
    "inspect_ai": (),
    "inspect_ai.log": ("EvalConfig", "EvalDataset", "EvalLog", "EvalMetric", "EvalResults", "EvalSample", "EvalScore",
                       "EvalSpec"),
    "inspect_ai.model": ("ChatMessageSystem", "ChatMessageUser", "ContentImage", "ContentText"),
    "inspect_ai.scorer": ("Score",),
}  # fmt: skip


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is written, by the name of the file."""
    written: dict[str, Any] = {}
    for name, classes in MODULES.items():
        module = ModuleType(name)
        for each in classes:
            setattr(module, each, SimpleNamespace)
        monkeypatch.setitem(sys.modules, name, module)
    log, model = sys.modules["inspect_ai.log"], sys.modules["inspect_ai.model"]
    log.write_eval_log = lambda made, path: written.update({Path(path).name: made})  # type: ignore[attr-defined]
    model.ModelOutput = SimpleNamespace(from_content=lambda *parts: parts)  # type: ignore[attr-defined]
    return written


def tuned(root: Path, *ids: str) -> Path:
    """The run whose questions of these ids are for tuning."""
    path = make_evaluated_run(root) / "eval/forget_10/samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [{**row, "part": "selection"} if row["id"] in ids else row for row in rows]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return root


def means(log: Any) -> dict[str, float]:
    return {score.name: score.metrics["mean"].value for score in log.results.scores}


@pytest.mark.parametrize(
    ("tuning", "accuracy", "right"),
    [
        ((), 0.5, 3 / 6),  # retain_model: B, no, judge | B, yes, cook
        (("forget/p1.classification",), 1.0, 3 / 5),
        (("forget/p1.cloze", "retain/p2.generation"), 0.5, 1 / 4),
    ],
)
def test_means_are_over_the_questions_of_the_log(
    logs: dict[str, Any], tmp_path: Path, tuning: tuple[str, ...], accuracy: float, right: float
) -> None:
    recipe = parse({"name": "x", "unlearn": {"methods": ["npo"]}})
    write_logs(tuned(tmp_path / "run", *tuning), recipe, "10", tmp_path)
    assert list(logs) == [f"forget_10_{model}.eval" for model in ("target", "retain_model", "npo")]
    log = logs["forget_10_retain_model.eval"]
    assert {sample.id for sample in log.samples} & set(tuning) == set()
    assert log.results.total_samples == len(log.samples) == 6 - len(tuning)
    assert (means(log)["accuracy"], means(log)["right"]) == pytest.approx((accuracy, right))


def test_a_run_without_a_retain_model_has_no_log_of_one(logs: dict[str, Any], tmp_path: Path) -> None:
    recipe = parse({"name": "x", "finetune": {"retain_model": False}, "unlearn": {"methods": ["npo"]}})
    write_logs(make_evaluated_run(tmp_path / "run"), recipe, "10", tmp_path)
    assert list(logs) == ["forget_10_target.eval", "forget_10_npo.eval"]
