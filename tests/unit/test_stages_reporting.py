"""What judges said joins the report's numbers, for the models the report is about."""

from __future__ import annotations

import json
from pathlib import Path

from mllmu.core.records import MetricResult
from mllmu.pipeline.report_input import judged, stale_judges
from mllmu.report import ModelRow


def result(model: str) -> dict[str, object]:
    return MetricResult(
        model=model,
        metric="factuality_rule",
        split="forget",
        task="generation",
        modality="text",
        value=7.5,
        ci_low=6.0,
        ci_high=9.0,
        num=8,
        num_unparsed=0,
        num_profiles=4,
    ).model_dump()


def test_results_of_every_judge_are_taken_for_the_listed_models_only(tmp_path: Path) -> None:
    (tmp_path / "judge_rule.json").write_text(json.dumps({"results": [result("target"), result("gone")]}))
    rows = [ModelRow(name="target", role="target")]
    assert [(r.model, r.value) for r in judged(tmp_path, rows)] == [("target", 7.5)]


def test_without_a_judge_nothing_is_added(tmp_path: Path) -> None:
    assert judged(tmp_path, [ModelRow(name="target", role="target")]) == []


def test_points_for_replies_that_were_replaced_are_left_out_with_a_warning(tmp_path: Path) -> None:
    rows = [ModelRow(name="target", role="target")]
    replies = tmp_path / "target" / "replies"
    replies.mkdir(parents=True)
    (replies / "unit.json").write_text(json.dumps({"fingerprint": "f1"}))
    (tmp_path / "judge_rule.json").write_text(json.dumps({"replies": {"target": "f1"}, "results": [result("target")]}))
    assert len(judged(tmp_path, rows)) == 1 and stale_judges(tmp_path) == ()
    (replies / "unit.json").write_text(json.dumps({"fingerprint": "f2"}))
    assert judged(tmp_path, rows) == []
    assert "points of a judge (rule) are not shown" in stale_judges(tmp_path)[0]
