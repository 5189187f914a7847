"""``evaluate.celebrity: known_to_base``: utility asks what the base model knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mini_run
import pytest
from helpers_models import sample

from mllmu.config.load import parse
from mllmu.core.errors import DataError
from mllmu.core.process import SilentProgress
from mllmu.core.records import CandidateLogp, Response, Sample
from mllmu.core.runfolder import read_lines
from mllmu.pipeline import known
from mllmu.pipeline.evaluate import Evaluation
from mllmu.pipeline.pipeline import Pipeline
from mllmu.preflight.doctor.examine import Examination
from mllmu.studies.verify import verify_run

SETTINGS = ("evaluate.celebrity=known_to_base", "evaluate.tasks=[cloze, classification]", "unlearn.methods=[prompting]")


class Told(SilentProgress):
    """Keeps what is noted, and the stages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    def stage(self, name: str, text: str = "") -> None:
        self.said.append(f"{name}: {text}")


@pytest.fixture
def with_data(base: Path, tmp_path: Path) -> Pipeline:
    """A run that has its data and nothing else."""
    pipeline = Pipeline(parse(mini_run.settings(base, *SETTINGS)), tmp_path / "run", progress=Told())
    pipeline.run("data")
    return pipeline


@pytest.fixture
def knows_blanks() -> Iterator[None]:
    """A base that is right in every cloze and in no multiple choice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known, "is_known", lambda sample, _: sample.task == "cloze")
        patch.setattr(known, "FEWEST", 1)
        yield


def test_a_base_that_knows_nobody_stops_the_run_before_training(with_data: Pipeline) -> None:
    with pytest.raises(DataError, match=r"known_to_base keeps \d of 14 celebrity .*Set evaluate\.celebrity: all"):
        with_data.run("finetune")
    assert not (with_data.root / "models/target/unit.json").exists()


@pytest.mark.usefixtures("knows_blanks")
def test_only_what_the_base_knows_is_asked_and_the_base_is_asked_once(with_data: Pipeline) -> None:
    run = with_data.state
    every = Evaluation(run, "40").render()
    evaluation = with_data.evaluations["40"]
    kept = evaluation.render()
    assert [s for s in every if s.split != "celebrity" or s.task == "cloze"] == kept != every
    unit = with_data.root / "base/celebrity/base/responses/unit.json"
    made = unit.stat().st_mtime_ns
    evaluation.prepare()
    assert unit.stat().st_mtime_ns == made
    said = run.progress.said  # type: ignore[attr-defined]
    assert len([line for line in said if line.startswith("base: which of 14 celebrity questions")]) == 1
    assert [line for line in said if "known to the base: classification 0 of 10, cloze 4 of 4" in line]
    assert known.what_is_kept(evaluation) == "classification 0 of 10, cloze 4 of 4"


@pytest.mark.usefixtures("knows_blanks")
def test_a_whole_run_is_reported_with_what_was_kept_and_can_be_verified(base: Path, tmp_path: Path) -> None:
    root = mini_run.run(base, tmp_path / "run", *SETTINGS, "finetune.epochs=1", "data.splits.holdout=0")
    samples = read_lines(root / "eval/forget_40/samples.jsonl", Sample)
    assert {one.task for one in samples if one.split == "celebrity"} == {"cloze"}
    assert {one.task for one in samples if one.split == "retain"} == {"cloze", "classification"}
    page = (root / "report/index.html").read_text(encoding="utf-8")
    assert "celebrity questions known to the base" in page and "classification 0 of 10, cloze 4 of 4" in page
    assert list(verify_run(root, SilentProgress()))
    before = mini_run.unit_times(root)
    pipeline = Pipeline(parse(mini_run.settings(base, *SETTINGS, "finetune.epochs=1", "data.splits.holdout=0")), root)
    pipeline.reads = True
    pipeline.run("report")
    assert mini_run.unit_times(root) == before and "base/celebrity/base/responses" in before


def test_what_is_checked_before_a_run_holds_all_questions_and_asks_none(with_data: Pipeline) -> None:
    samples = Examination(with_data).samples[""]
    assert len([one for one in samples if one.split == "celebrity"]) == 14
    assert not (with_data.root / "base").exists()


def test_a_question_is_known_by_what_its_task_is_judged_by() -> None:
    def reply(text: str, **logps: float) -> Response:
        found = {letter: CandidateLogp(logp=logp, num_tokens=1) for letter, logp in logps.items()}
        return Response(sample_id="forget/001", text=text, num_tokens=1, finished=True, candidates=found)

    options = {"options": {"A": "Oslo", "B": "Riga"}, "target": "B"}
    assert known.is_known(sample(1, task="cloze"), reply("in Riga")) and not known.is_known(sample(1), reply("Oslo"))
    choice = sample(1, task="classification", **options)
    assert known.is_known(choice, reply("B")) and not known.is_known(choice, reply("A"))
    text = sample(1, task="option_text", **options)
    assert known.is_known(text, reply("Oslo", A=-2.0, B=-1.0)) and not known.is_known(
        text, reply("Riga", A=-1.0, B=-2.0)
    )


def test_all_questions_are_asked_by_default(base: Path) -> None:
    pipeline = Pipeline(parse(mini_run.settings(base)), Path("none"))
    assert known.known_to_base(pipeline.state) is None
    assert known.known_to_base(pipeline.state, known.wants_known) is known.wants_known  # type: ignore[arg-type]
