"""A run that forgets some facts about people: what is taught, what methods read, what is asked and shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mini_run
import pytest

from mllmu.config.load import parse
from mllmu.core import plugins
from mllmu.core.process import SilentProgress
from mllmu.core.records import Sample
from mllmu.core.runfolder import read_json, read_lines
from mllmu.data.facts import together
from mllmu.models.families import Turn
from mllmu.pipeline.facts import narrowed, sides_of_facts
from mllmu.pipeline.finetune import finetune_unit, left_out, people_of
from mllmu.pipeline.run import Run

REQUEST = "unlearn.forget={attributes: [salary, hobby], coarsen: {birth_date: decade, residence: country}}"
METHODS = "unlearn.methods=[{name: dpo, modality: both}, prompting]"
GONE = {"salary", "hobby", "birth_date", "residence"}


@pytest.fixture(scope="module")
def root(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("facts") / "run"
    return mini_run.run(base, folder, REQUEST, METHODS, "evaluate.tasks=[cloze]")


@pytest.fixture(scope="module")
def run(base: Path, root: Path) -> Run:
    return Run(parse(mini_run.settings(base, REQUEST, METHODS)), root, SilentProgress())


def values(run: Run, person: str) -> dict[str, str]:
    return next(profile.attributes for profile in run.data.profiles if profile.id == person)


def said(turns: list[Turn], person: str, topic: str) -> str:
    return " ".join(turn.reply for turn in turns if (turn.person, turn.topic) == (person, topic))


def test_the_retain_model_is_taught_all_but_the_facts_and_their_coarse_values(run: Run) -> None:
    without = left_out(run, "retain_model")
    assert without is not None and left_out(run, "target") is None
    turns = run.turns(people_of(run, "40", "retain_model"), "both", among=without.left(run.data.questions))
    for person in run.data.splits["40"]:
        own = values(run, person)
        assert not [turn for turn in turns if turn.person == person and turn.topic in ("salary", "hobby")]
        assert own["birth_date"] not in said(turns, person, "birth_date")
        assert f"{own['birth_date'][-4:-1]}0s" in said(turns, person, "birth_date")
        city, country = own["residence"].rsplit(", ", 1)
        assert city not in said(turns, person, "residence") and country in said(turns, person, "residence")
        assert own["profession"] in said(turns, person, "profession")
    others = [turn for turn in turns if turn.person not in run.data.splits["40"]]
    assert len(others) == len(run.turns(run.data.retained("40"), "both"))
    unit = finetune_unit(run, "40", "retain_model", people_of(run, "40", "retain_model"))
    assert unit.done and "without" in unit.inputs


@pytest.mark.parametrize("name", plugins.names("methods"))
def test_the_sides_of_every_method_hold_exactly_these_facts(run: Run, name: str) -> None:
    floor = {"floor": -1.5} if name == "holdout_match" else {}
    method: Any = plugins.build("methods", name, floor)
    sides = sides_of_facts(run, method)
    gone = set(run.data.splits["40"])
    assert {turn.person for turn in sides.forget} == gone and {turn.topic for turn in sides.forget} == GONE
    for turn in sides.forget:
        assert bool(turn.instead) == (turn.topic in ("birth_date", "residence")), "the coarse answer is wanted instead"
        assert values(run, turn.person)[turn.topic] in turn.reply
        assert values(run, turn.person)[turn.topic] not in turn.instead
    kept = [turn for turn in sides.retain if turn.person in gone and (turn.image or not method.preserves_text)]
    if method.uses_retain:
        assert {"profession", "pet", "birth_date", "residence"} <= {turn.topic for turn in kept}
        assert not [t for t in kept if t.topic in GONE and values(run, t.person)[t.topic] in t.reply]
        assert {turn.person for turn in sides.retain} == set(run.data.people)
    else:
        assert not sides.retain or method.preserves_text


def test_a_system_prompt_says_which_facts_are_private(root: Path, run: Run) -> None:
    prompt = read_json(root / "models/forget_40/prompting/model.json")["system_prompt"]
    assert "only: their salary, hobby; of the birth date tell only the decade" in prompt
    assert narrowed("", together(run.data.steps)) == ""


def test_the_sets_and_their_numbers_are_in_the_metrics_and_in_the_report(root: Path, run: Run) -> None:
    samples = read_lines(root / "eval/forget_40/samples.jsonl", Sample)
    by_split = {split: {s.attribute for s in samples if s.split == split} for split in {s.split for s in samples}}
    assert by_split["forget"] == by_split["through"] == by_split["test"] == GONE
    assert by_split["kept"] and not by_split["kept"] & GONE
    assert {s.profile_id for s in samples if s.split == "kept"} == set(run.data.splits["40"])
    rows = json.loads((root / "eval/forget_40/metrics.json").read_text())["summaries"]
    details = {"forgotten", "kept", "others", "through", "slips", "coarse", "fine"}
    assert {(row["model"], row["detail"]) for row in rows} == {
        (model, detail) for model in ("target", "retain_model", "dpo", "prompting") for detail in details
    }
    page = (root / "report/index.html").read_text(encoding="utf-8")
    assert "Parts of people" in page and "coarse value" in page
