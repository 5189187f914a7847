"""A run with two requests: which models it makes, what they are made of, and what the report says."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mini_run
import pytest

from mllmu.config.load import parse
from mllmu.core.process import SilentProgress
from mllmu.core.records import ModelRef, Sample
from mllmu.core.requested import RequestResults
from mllmu.core.runfolder import read_json, read_lines, read_record
from mllmu.parallel.engines import LocalEngine
from mllmu.pipeline.facts import sides_of_facts
from mllmu.pipeline.requests import label, of_one_request
from mllmu.pipeline.run import Run
from mllmu.studies.sweep import SweepOrder, SweptRun, sweep

REQUESTS = "unlearn.requests=2"
METHODS = "unlearn.methods=[npo, {name: router, epochs: 1}, prompting, retrain]"
HOW = (REQUESTS, METHODS, "evaluate.tasks=[cloze]", "evaluate.modalities=[text]")


@pytest.fixture(scope="module")
def root(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_run.run(base, tmp_path_factory.mktemp("requests") / "run", *HOW)


@pytest.fixture(scope="module")
def run(base: Path, root: Path) -> Run:
    return Run(parse(mini_run.settings(base, *HOW)), root, SilentProgress())


def ref(root: Path, model: str) -> ModelRef:
    found: Any = read_record(root / f"models/forget_40/{model}/model.json", ModelRef)
    return found


def test_every_request_is_applied_to_the_result_of_the_one_before(root: Path) -> None:
    target, folder = "models/target", "models/forget_40"
    for model in ("npo", "router"):
        assert ref(root, f"{model}@1").adapters == (target, f"{folder}/{model}@1")
        assert ref(root, f"{model}@2").adapters == (target, f"{folder}/{model}@1", f"{folder}/{model}@2")
        assert ref(root, model) == ref(root, f"{model}@2"), "the last one is the method's"
    first = read_json(root / f"{folder}/router@1/modifier.json")
    assert first["facts"]["requests"] == 1, "a router has one adapter for each request"


def test_a_prompt_names_those_who_have_asked_so_far(root: Path, run: Run) -> None:
    names = [run.data.names[person] for person in run.data.splits["40"]]
    first, second = (ref(root, f"prompting@{n}").system_prompt for n in (1, 2))
    assert names[0] in first and names[1] not in first
    assert names[0] in second and names[1] in second


def test_retraining_teaches_everyone_who_has_not_asked_yet(root: Path, run: Run) -> None:
    units = [
        read_json(root / f"models/forget_40/{name}/unit.json") for name in ("retrain@1", "retrain@2", "retain_model")
    ]
    first, last, retain = (unit["inputs"]["without"] for unit in units)
    assert first != last == retain
    weights = [
        next((root / f"models/forget_40/{n}").glob("*.safetensors")).read_bytes() for n in ("retrain@2", "retain_model")
    ]
    assert weights[0] == weights[1], "after all requests it is the retain model"
    assert run.data.steps[0].left(run.data.questions) != run.data.steps[1].left(run.data.questions)


def test_the_sides_of_a_request_hold_its_people_and_none_who_asked_before(run: Run) -> None:
    job = run.jobs["npo"].method.model_copy(update={"retain_weight": 1.0})
    first, second = run.data.splits["40"]
    one, two = (sides_of_facts(run, job, number) for number in (1, 2))
    assert {turn.person for turn in one.forget} == {first} and {turn.person for turn in two.forget} == {second}
    assert {turn.person for turn in one.retain} == set(run.data.people) - {first}, "the second has not asked yet"
    assert {turn.person for turn in two.retain} == set(run.data.people) - {first, second}
    assert of_one_request(run.jobs["router"].method).requests == 1
    assert label(run.data.steps[0]) == "1 person"


def test_every_request_is_asked_after_every_request(root: Path) -> None:
    results = RequestResults.model_validate(read_json(root / "eval/forget_40/requests.json", sealed=True))
    places = results.by_place()
    for model in ("npo", "router", "prompting", "retrain"):
        for after in (1, 2):
            for request in (1, 2):
                score = places[model, "text", "forget", request, after]
                assert score.num == 2 and (score.change is not None) == (request < after)
            assert places[model, "text", "retain", 0, after].change is not None
            assert places[model, "text", "celebrity", 0, after].num == 2
    assert results.labels == ("1 person", "1 person")
    kept = {(cost.model, cost.number): cost.adapters for cost in results.costs}
    assert (kept["npo", 1], kept["npo", 2]) == (1, 2)
    assert kept["prompting", 2] == 0 and kept["retrain", 2] == 1
    asked = read_lines(root / "requests/forget_40/samples.jsonl", Sample)
    assert {sample.split for sample in asked} == {"forget", "retain", "celebrity"}


def test_the_report_shows_them_and_a_second_run_does_nothing(root: Path, base: Path) -> None:
    page = (root / "report/index.html").read_text(encoding="utf-8")
    assert 'id="requests"' in page and "npo, request by time: text only" in page
    assert (root / "report/plots/requests.png").is_file()
    before = mini_run.unit_times(root)
    mini_run.run(base, root, *HOW)
    assert mini_run.unit_times(root) == before


def test_a_sweep_on_this_machine_finishes_a_run_with_workers_of_its_own(base: Path, root: Path, tmp_path: Path) -> None:
    """What the models between the requests reply is asked by the last unit, in a worker that can have no workers."""
    folder = shutil.copytree(root, tmp_path / "run")
    shutil.rmtree(folder / "requests")
    shutil.rmtree(folder / "report")
    order = SweepOrder({"": SweptRun(parse(mini_run.settings(base, *HOW, "workers=2")), folder)})
    with LocalEngine(1, order.start_worker, SilentProgress()) as engine:
        done = sweep(order, engine, progress=SilentProgress())
    assert not done.failed
    pattern = "requests/**/responses.jsonl"
    assert mini_run.fingerprints(folder, pattern) == mini_run.fingerprints(root, pattern)
    assert (folder / "report/index.html").is_file()
