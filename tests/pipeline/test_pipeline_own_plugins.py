"""A metric, a summary, a general benchmark and a judge in one file of the user's own, named in a recipe by a path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mini_run import run

OWN = '''
from contextlib import nullcontext
from pathlib import Path

from PIL import Image

from mllmu import Judge, Metric
from mllmu.core.declared import TableSpec
from mllmu.evaluation.benchmarks import Asked, Benchmark
from mllmu.evaluation.judges import JudgeSession, Verdict
from mllmu.evaluation.summaries import Summariser


class Shouting(Metric):
    """Share of capital letters in a reply."""

    source = "ours"
    tasks = ("generation",)
    label = "Capital letters"
    unit = "letters per letter"
    better = "lower"

    def value(self, sample, response):
        return sum(map(str.isupper, response.text)) / len(response.text) if response.text else "empty reply"


class Loudest(Summariser):
    """The loudest reply of each model."""

    source = "ours"
    needs = ("my_evaluation:Shouting",)

    def summarise(self, run):
        values = {model: run.judged(model, self.needs[0], split="forget").values() for model in run.models}
        return [self.row(model, max(found, default=None), split="forget") for model, found in values.items()]

    def tables(self, rows):
        column = self.column("loudest on forget", split="forget", reads="capital letters of the loudest reply")
        yield TableSpec(title="How loud the replies are", columns=(column,), order=80)


class Riddles(Benchmark):
    """Two riddles about a coloured image."""

    source = "ours"
    label = "Riddles of our own"
    metrics = ("my_evaluation:Shouting",)
    free_answers = True
    path: Path = Path("no/such/folder")

    def read(self):
        for colour in ("red", "blue"):
            sample = self.sample(
                colour, task="generation", attribute="colour", prompt="Which colour?", target=colour, value=colour
            )
            yield Asked(sample, lambda: Image.new("RGB", (8, 8)))


class Strict(Judge):
    """One point for every reply."""

    source = "ours"
    reads_rubric = False
    about = "1 point for every reply"

    def session(self):
        return nullcontext(JudgeSession(self.grade))

    def grade(self, cases):
        return (Verdict(sample_id=case.sample_id, value=1.0, reason="strict") for case in cases)
'''


def test_plugins_of_one_own_file_are_in_the_numbers_and_in_the_report(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_evaluation.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    root = run(
        base,
        tmp_path / "run",
        "evaluate.benchmarks=[{name: 'my_evaluation:Riddles', max_new_tokens: 4}]",
        "evaluate.summaries=['my_evaluation:Loudest']",
        "evaluate.judges=['my_evaluation:Strict']",
        "evaluate.tasks=[generation]",
        "unlearn.methods=[prompting]",
        "data.celebrities=null",
        "data.splits.holdout=0",
        "finetune.epochs=1",
    )
    folder = root / "eval" / "forget_40"
    numbers = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    declared = numbers["declared"]
    assert declared["metrics"]["my_evaluation:Shouting"]["label"] == "Capital letters"
    assert declared["metrics"]["my_evaluation:Shouting"]["unit"] == "letters per letter"
    assert declared["metrics"]["my_evaluation:Shouting"]["better"] == "lower"
    assert declared["splits"]["Riddles"] == {"label": "Riddles of our own", "kind": "benchmark"}
    scored = {(r["model"], r["split"]) for r in numbers["results"] if r["metric"] == "my_evaluation:Shouting"}
    assert {("target", "forget"), ("prompting", "Riddles")} <= scored
    rows = [row for row in numbers["summaries"] if row["summary"] == "my_evaluation:Loudest"]
    assert {row["model"] for row in rows} == {"target", "retain_model", "prompting"}
    judged = json.loads((folder / "judge_Strict.json").read_text(encoding="utf-8"))["results"]
    assert {(r["metric"], r["value"]) for r in judged} == {("factuality_Strict", 1.0)}
    assert "Riddles" in {r["split"] for r in judged}
    page = (root / "report" / "index.html").read_text(encoding="utf-8")
    for words in (
        "my_evaluation:Shouting",
        "How loud the replies are",
        "loudest on forget",
        "Riddles of our own",
        "Strict",
    ):
        assert words in page
