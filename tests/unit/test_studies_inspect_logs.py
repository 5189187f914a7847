"""Logs for Inspect hold what a report counts: neither tuning questions nor their scores, nor a model that is not there.

Inspect itself is stood in for: what its writer is given is looked at.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from helpers_explorer import make_evaluated_run
from PIL import Image

from mllmu.config.load import parse
from mllmu.core.runfolder import write_json
from mllmu.studies.exports import official
from mllmu.studies.exports.inspect_logs import write_logs
from mllmu.studies.exports.lm_eval_tasks import write_tasks

MODULES = {
    "inspect_ai": (),
    "inspect_ai.log": ("EvalConfig", "EvalDataset", "EvalLog", "EvalMetric", "EvalResults", "EvalSample", "EvalScore",
                       "EvalSpec"),
    "inspect_ai.model": ("ChatMessageAssistant", "ChatMessageSystem", "ChatMessageUser", "ContentImage", "ContentText"),
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


def asked(root: Path, logs: dict[str, Any], model: str, **changes: Any) -> list[Any]:
    """What the log of a model says that it was asked, where the first question is changed."""
    path = root / "eval/forget_10/samples.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), **changes}), *others]) + "\n")
    write_logs(root, parse({"name": "x", "unlearn": {"methods": ["npo"]}}), "10", root / "logs")
    messages = logs[f"forget_10_{model}.eval"].samples[0].input
    return [m.content if isinstance(m.content, str) else [vars(part) for part in m.content] for m in messages]


def test_a_question_is_shown_with_its_examples_and_the_system_prompt_of_the_model(
    logs: dict[str, Any], tmp_path: Path
) -> None:
    root = make_evaluated_run(tmp_path / "run")
    write_json(root / "models/forget_10/npo/model.json", {"base": "tiny", "system_prompt": "Forget Ada."})
    shown = [f"data:image/png;base64,{b64encode((root / 'data/images' / f'{p}_0.png').read_bytes()).decode()}"
             for p in ("p1", "p2")]  # fmt: skip
    example = {"prompt": "Who is it?", "reply": "Bo", "image": "images/p2_0.png"}
    how = {"image": "images/p1_0.png", "prompt": "And this?", "system": "Be brief.", "examples": [example]}
    assert asked(root, logs, "npo", **how) == [
        "Forget Ada.\nBe brief.",
        [{"image": shown[1]}, {"text": "Who is it?"}],
        "Bo",
        [{"image": shown[0]}, {"text": "And this?"}],
    ]
    assert asked(root, logs, "target", **how)[0] == "Be brief."
    raw = {**how, "prompt": "<image> Bo\n<image> And?", "system": "", "raw_prompt": True}
    images = [{"image": shown[1]}, {"image": shown[0]}]
    assert asked(root, logs, "npo", **raw) == [[*images, {"text": "Forget Ada.\n<image> Bo\n<image> And?"}]]
    assert asked(root, logs, "target", **raw) == [[*images, {"text": "<image> Bo\n<image> And?"}]]


def test_tasks_for_lm_eval_have_an_image_for_every_mark_of_a_raw_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples of the official protocol show portraits too: the first mark is theirs."""
    root = make_evaluated_run(tmp_path / "run")
    path = root / "eval/forget_10/samples.jsonl"
    example = {"prompt": "", "reply": "", "image": "images/p2_0.png"}
    rows = [json.loads(line) | {"raw_prompt": True, "examples": []} for line in path.read_text().splitlines()]
    seen = next(row for row in rows if row["modality"] == "image_text")
    seen |= {"prompt": "<image> Bo <image> Who?", "image": "images/p1_0.png", "examples": [example]}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    Image.new("RGB", (16, 16), "red").save(root / "data/images/p2_0.png")
    out = tmp_path / "out"
    write_tasks(root, parse({"name": "x"}), "10", out)
    docs = [json.loads(line) for file in (out / "questions").iterdir() for line in file.read_text().splitlines()]
    doc = next(doc for doc in docs if doc["id"] == seen["id"])
    monkeypatch.setattr(official, "HERE", out)
    first, second = official.doc_to_image(doc)
    assert doc["prompt"].count("<image>") == 2
    assert (first.getpixel((0, 0)), second.getpixel((0, 0))) == ((255, 0, 0), (0, 128, 128))
