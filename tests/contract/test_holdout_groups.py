"""No method reads what it is judged by: nothing that any metric or summary asks about is trained on or fitted to."""

from __future__ import annotations

from typing import Any

import pytest

from mllmu.config.load import parse
from mllmu.core import plugins
from mllmu.core.process import SilentProgress
from mllmu.core.records import Sample
from mllmu.data.build import make
from mllmu.evaluation.metrics import metrics_of
from mllmu.evaluation.samples import render
from mllmu.evaluation.summaries import membership, privleak
from mllmu.pipeline.run import Run
from mllmu.pipeline.unlearn import sides_of
from mllmu.unlearning.trainer import Sides

METHODS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in plugins.names("methods")),
    *((name, {"modality": "both"}) for name in plugins.names("methods") if name != "mmunlearner"),
    ("holdout_match", {"modality": "text"}),
    ("holdout_match", {"reference": "retain_model"}),
    ("holdout_match", {"floor": -1.5}),
]
METRICS = plugins.names("metrics")
SUMMARIES = plugins.names("summaries")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    raw = {
        "name": "groups",
        "data": {
            "source": {"name": "synthetic", "num_people": 5},
            "celebrities": {"name": "celebrities", "num_people": 6},
            "portraits": {"name": "dicebear", "size": 32, "num_views": 2},
            "splits": {"forget_ratios": [0.4], "holdout": 2, "calibration": 2},
            "train_wordings": 1,
            "train_formats": ["question", "classification", "cloze"],
        },
    }
    run = Run(parse(raw), tmp_path_factory.mktemp("run"), SilentProgress())
    make(run.recipe.data, run.recipe.seed, run.root / "data", run.progress)
    return run


@pytest.fixture(scope="module")
def asked(run: Run) -> list[Sample]:
    """All that an evaluation with every task, metric and summary asks."""
    every = {"tasks": plugins.names("tasks"), "extra_metrics": METRICS, "summaries": SUMMARIES}
    evaluate = run.recipe.evaluate.model_validate(every)
    assert {metric.name for metric in metrics_of(evaluate)} == set(METRICS)
    return render(run.data, "40", evaluate, selection=0.3, seed=0)


def read(run: Run, name: str, settings: dict[str, Any]) -> Sides:
    return sides_of(run, "40", plugins.build("methods", name, settings))


def test_the_two_groups_are_of_different_people_whom_no_model_learns(run: Run) -> None:
    data = run.data
    groups = [data.people, data.holdout, data.calibration, data.celebrities]
    assert [len(group) for group in groups] == [5, 2, 2, 6]
    assert len(set().union(*groups)) == len({data.names[person] for group in groups for person in group}) == 15
    assert data.keys == ["40"]


@pytest.mark.parametrize(("name", "settings"), METHODS, ids=str)
def test_no_method_reads_an_evaluated_question_or_person(
    run: Run, asked: list[Sample], name: str, settings: dict[str, Any]
) -> None:
    sides = read(run, name, settings)
    outside = {turn.person for turn in sides.holdout}
    assert outside <= set(run.data.calibration)
    assert not outside & {sample.profile_id for sample in asked}
    turns = [*sides.forget, *sides.retain, *sides.holdout]
    assert {turn.person for turn in [*sides.forget, *sides.retain]} <= set(run.data.people)
    taken = {(turn.person, turn.prompt, turn.image is not None) for turn in turns}
    assert not taken & {(sample.profile_id, sample.prompt, bool(sample.image)) for sample in asked}


@pytest.mark.parametrize("name", [*METRICS, *SUMMARIES])
def test_no_number_rests_on_a_calibration_person(run: Run, asked: list[Sample], name: str) -> None:
    metrics = [name] if name in METRICS else [*plugins.find("summaries", name).needs]
    judges = [plugins.build("metrics", metric, {}) for metric in metrics]
    rests_on = {s.profile_id for s in asked if not judges or any(judge.judges(s.split, s.task) for judge in judges)}
    assert not rests_on & set(run.data.calibration)


def test_methods_that_compare_read_all_calibration_people_and_membership_all_holdout_people(
    run: Run, asked: list[Sample]
) -> None:
    assert {turn.person for turn in read(run, "holdout_match", {}).holdout} == set(run.data.calibration)
    assert membership.SIDES == privleak.SIDES == ("forget", "holdout")
    assert {sample.profile_id for sample in asked if sample.split == "holdout"} == set(run.data.holdout)
