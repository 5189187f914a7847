"""What a report says of its run: the points of judges, who was forgotten, and what a reader must know of the models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers_models import sample
from safetensors.torch import save_file

from mllmu.config.requests import ForgetRequest
from mllmu.core.records import MetricResult, Response
from mllmu.core.runfolder import seal
from mllmu.pipeline.report import adapter_warning, facts_line, judgements, ratio_warning, same_as_target
from mllmu.pipeline.run import Run


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


def run_of(people: int, gone: int, key: str, forget: ForgetRequest | None = None) -> Run:
    """As much of a run as says who was forgotten."""
    data = SimpleNamespace(people=range(people), splits={key: range(gone)})
    unlearn = SimpleNamespace(forget=forget, requests=())
    recipe = SimpleNamespace(model=SimpleNamespace(path="tiny"), seed=3, unlearn=unlearn)
    return cast(Run, SimpleNamespace(data=data, recipe=recipe))


@pytest.mark.parametrize(
    ("people", "gone", "key", "said"),
    [
        (12, 1, "10", "Of 12 people that is 1, which is 8.33 %."),
        (16, 6, "37.5", ""),
        (200, 11, "5", ""),  # half a point off is not said
        (100, 6, "5", "Of 100 people that is 6, which is 6 %."),
    ],
)
def test_a_ratio_that_could_not_be_kept_is_said_with_what_it_became(
    people: int, gone: int, key: str, said: str
) -> None:
    found = "".join(ratio_warning(run_of(people, gone, key), key))
    assert found.endswith(said) and bool(found) == bool(said)
    if found:
        assert found.startswith(
            f"The recipe asks to forget {key} % of the people, and folders are named so (forget_{key})"
        )


def test_the_title_line_has_the_people_of_the_run_and_not_the_ratio_of_the_recipe() -> None:
    line = facts_line(run_of(12, 1, "10"), "10")
    assert line == "1 of 12 people forgotten (8.33 %), the embedded model 'tiny', seed 3"


@pytest.mark.parametrize(
    "request_", [{"attributes": ["salary"]}, {"coarsen": {"birth_date": "year"}}, {"facts": {"001": ["pet"]}}]
)
def test_the_title_line_says_when_only_facts_about_people_are_forgotten(request_: dict[str, Any]) -> None:
    line = facts_line(run_of(12, 1, "10", ForgetRequest.model_validate(request_)), "10")
    assert line.startswith("facts about 1 of 12 people forgotten (8.33 %)")


def test_adapters_outside_of_the_language_model_are_said_with_the_models_that_have_them(tmp_path: Path) -> None:
    layers = {
        "inside": ["language_model.layers.0.self_attn.q_proj"],
        "both": ["language_model.layers.0.self_attn.q_proj", "vision_tower.layers.0.self_attn.q_proj"],
    }
    for name, adapted in layers.items():
        (tmp_path / name).mkdir()
        weights = {f"base_model.model.model.{layer}.lora_A.weight": torch.zeros(1) for layer in adapted}
        save_file(weights, tmp_path / name / "adapter_model.safetensors")
    adapters = {"target": ["inside"], "npo": ["inside", "both"], "ga": ["both"], "prompting": []}
    run = SimpleNamespace(
        root=tmp_path, models=list(adapters), ref=lambda _, name: SimpleNamespace(adapters=adapters[name])
    )
    (line,) = adapter_warning(cast(Run, run), "10")
    assert "1 of 2 layers with adapters are outside the language model, e.g. model.vision_tower.layers.0" in line
    assert line.endswith("How images are seen changed with them in: npo, ga.")
