"""What judges said joins the report's numbers, for the models the report is about."""

from __future__ import annotations

import json
from pathlib import Path

from helpers_models import sample

from mllmu.core.records import MetricResult, Response
from mllmu.core.runfolder import seal
from mllmu.pipeline.report import judgements, same_as_target


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


DECLARED = {"metrics": {"factuality_rule": {"label": "Factuality", "table": True}}}


def write(folder: Path, *results: dict[str, object], **more: object) -> None:
    content = {"results": results, "declared": DECLARED, **more}
    (folder / "judge_rule.json").write_text(json.dumps(seal(content)), encoding="utf-8")


def test_results_of_every_judge_are_taken_for_the_listed_models_only(tmp_path: Path) -> None:
    write(tmp_path, result("target"), result("gone"))
    results, declared, warnings = judgements(tmp_path, ["target"])
    assert [(r.model, r.value) for r in results] == [("target", 7.5)]
    assert ([info.label for info in declared.values()], warnings) == (["Factuality"], [])


def test_without_a_judge_nothing_is_added(tmp_path: Path) -> None:
    assert judgements(tmp_path, ["target"]) == ([], {}, [])


def test_points_for_replies_that_were_replaced_are_left_out_with_a_warning(tmp_path: Path) -> None:
    responses = tmp_path / "target" / "responses"
    responses.mkdir(parents=True)
    (responses / "unit.json").write_text(json.dumps({"fingerprint": "f1", "inputs": {}, "facts": {}}))
    write(tmp_path, result("target"), responses={"target": "f1"})
    results, _, warnings = judgements(tmp_path, ["target"])
    assert len(results) == 1 and warnings == []
    (responses / "unit.json").write_text(json.dumps({"fingerprint": "f2", "inputs": {}, "facts": {}}))
    results, declared, (warning,) = judgements(tmp_path, ["target"])
    assert (results, declared) == ([], {})
    assert "points of a judge (rule) are not shown" in warning


def test_how_many_responses_about_the_people_to_forget_are_the_target_s() -> None:
    asked = [sample(1), sample(2, split="test"), sample(3, image="a.png"), sample(4, split="retain")]
    asked.append(sample(5, part="selection"))

    def replies(*texts: str) -> dict[str, Response]:
        return {
            s.id: Response(sample_id=s.id, text=text, num_tokens=1, finished=True)
            for s, text in zip(asked, texts, strict=True)
        }

    target, model = replies("Riga", "Oslo", "Riga", "Rome", "Rome"), replies("Riga", "oslo", "Riga", "Oslo", "Oslo")
    assert same_as_target(asked, target, model) == {"text": 0.5, "image_text": 1.0}
