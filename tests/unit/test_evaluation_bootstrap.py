"""Intervals of numbers about whole models: by hand on a few people, and how often they hold the truth."""

from __future__ import annotations

from random import Random
from statistics import median
from typing import Any

import pytest

from mllmu.core import plugins
from mllmu.core.process import rng
from mllmu.core.records import Modality, Sample, Score, Split, Summary
from mllmu.evaluation import scoring
from mllmu.evaluation.bootstrap import DRAWS, PeopleGroups, with_intervals
from mllmu.evaluation.metrics import interval_around
from mllmu.evaluation.stats import bootstrap_interval
from mllmu.evaluation.summaries import ScoredRun, build_all

Values = dict[str, dict[str, float | None]]


def asked(name: str, person: str, split: Split = "forget", **changes: Any) -> Sample:
    fields = {
        "id": name, "question_id": name, "profile_id": person, "split": split, "task": "generation",
        "modality": "text", "attribute": "job", "prompt": "?", "target": "t", "value": "t", "max_new_tokens": 8,
    }  # fmt: skip
    return Sample.model_validate(fields | changes)


def everything(samples: list[Sample], values: dict[str, Values], **more: Any) -> ScoredRun:
    by_id = {sample.id: sample for sample in samples}
    return ScoredRun(samples=by_id, values=values, responses={model: {} for model in values}, average=list, **more)


def intervals(name: str, every: ScoredRun, **more: Any) -> dict[tuple[str, str], Summary]:
    return {(row.model, row.detail): row for row in with_intervals(build_all([name]), every, **more)}


_TOLD: dict[str, float | None] = {"a1": 1.0, "a2": 1.0, "b1": 0.0, "c1": 0.0}
TOLD = everything(
    [asked("a1", "anna"), asked("a2", "anna", attribute="town"), asked("b1", "ben"), asked("c1", "cleo")],
    {"x": {"keyword_match": _TOLD}, "y": {"keyword_match": dict(_TOLD)}},
)
"""Anna's two facts are told, Ben's and Cleo's are not."""


def test_percentiles_lie_further_out_where_there_are_few_people() -> None:
    draws = [float(n) for n in range(1001)]
    assert bootstrap_interval(draws, 10**6) == pytest.approx((25, 975), abs=0.01)
    # t(3) = 3.182 times sqrt(4/3) is 3.675; a normal variable is below that with probability 0.000119
    assert bootstrap_interval(draws, 4) == pytest.approx((0.119, 999.881), abs=0.001)


def test_people_are_drawn_with_all_their_facts() -> None:
    people = PeopleGroups(TOLD)
    (ape,) = build_all(["ape"])

    def mean_told(*times: int) -> float | None:
        return ape.summarise(people.repeated({"forget": times}))[0].value

    # Anna thrice: 6 of 6 facts; each once: 2 of 4; Anna and Ben twice: 2 of 4; never Anna: none
    assert (mean_told(3, 0, 0), mean_told(1, 1, 1), mean_told(1, 2, 0), mean_told(0, 2, 1)) == (1.0, 0.5, 0.5, 0.0)


def test_from_few_people_an_interval_is_as_wide_as_their_spread_and_stays_in_its_range() -> None:
    row = intervals("ape", TOLD)["x", "mean"]
    assert row.low is not None and row.high is not None
    assert (row.value, row.low >= 0, row.high <= 1) == (0.5, True, True)
    assert row.high - row.low > 0.8, "three people, of whom one is another than the two"


def test_of_one_or_two_people_their_facts_are_drawn() -> None:
    samples = [
        asked(f"{person}{n}", person, attribute=f"fact {n % 6}") for person in ("anna", "ben") for n in range(12)
    ]
    told: dict[str, float | None] = {s.id: float(s.attribute < "fact 3") for s in samples}
    both = PeopleGroups(everything(samples, {"x": {"keyword_match": told}}))
    assert list(both.groups["forget"])[5:7] == ["anna fact 5", "ben fact 0"]
    again = both.repeated({"forget": [2] + [0] * 11})
    assert list(again.samples) == ["anna0", "anna6", "anna0#2", "anna6#2"]
    alone = everything(samples[:12], {"x": {"keyword_match": told}})
    found = intervals("ape", alone)["x", "mean"]
    assert found.low is not None and found.high is not None and found.value == 0.5
    assert found.high - found.low > 0.5, "six facts of one person"


def test_somebody_drawn_twice_is_two_people_with_paired_facts() -> None:
    ways: tuple[Modality, Modality] = ("image_text", "text")
    samples = [asked(f"{person}_{way}", person, modality=way) for person in ("anna", "ben", "cleo") for way in ways]
    right: dict[str, float | None] = {"anna_image_text": 1.0, "anna_text": 0.0, "ben_image_text": 1.0, "ben_text": 1.0}
    again = PeopleGroups(everything(samples, {"x": {"right": right}})).repeated({"forget": [2, 1, 0]})
    assert [s.profile_id for s in again.samples.values()] == ["anna"] * 2 + ["anna#2"] * 2 + ["ben"] * 2
    facts = again.facts("x", "right")
    assert [(fact[2], *by.values()) for fact, by in facts.items()] == [("anna", 1, 0), ("anna#2", 1, 0), ("ben", 1, 1)]
    (both,) = build_all(["both_ways"])
    told = {row.detail: row.value for row in both.summarise(again)}
    assert (told["face_only"], told["acc_r"]) == (2 / 3, 1 / 3)


def test_forget_and_test_ask_the_same_people_and_are_drawn_together() -> None:
    people = PeopleGroups(
        everything([asked("f", "anna"), asked("t", "anna", "test"), asked("r", "rita", "retain")], {})
    )
    assert {group: list(units) for group, units in people.groups.items()} == {
        "forget": ["anna job"], "retain": ["rita job"],
    }  # fmt: skip
    assert list(people.repeated({"forget": [2], "retain": [1]}).samples) == ["f", "t", "f#2", "t#2", "r"]


def test_models_meet_the_same_people_in_every_draw() -> None:
    found = intervals("ape", TOLD)
    assert found["x", "mean"].low == found["y", "mean"].low
    assert found["x", "worst"].high == found["y", "worst"].high


def test_results_are_averaged_again_as_they_are_averaged_the_first_time() -> None:
    metrics = [plugins.build("metrics", name, {}) for name in ("rougeL", "truth_ratio", "reply_perplexity")]
    splits: tuple[Split, ...] = ("forget", "retain")
    samples = [asked(f"{s}{p}{n}", f"{s}{p}", s) for s in splits for p in range(3) for n in range(p + 1)]
    dice = rng(3)
    values: Values = {m.name: {s.id: dice.choice([dice.random(), 2.0, None]) for s in samples} for m in metrics}
    scores = [Score(sample_id=key, metric=name, value=v) for name, of in values.items() for key, v in of.items()]
    results = scoring.aggregate("x", samples, scores, metrics)
    first = ScoredRun(samples={s.id: s for s in samples}, values={"x": values}, responses={}, average=lambda: results)
    again = PeopleGroups(first).repeated({"forget": [0, 1, 2], "retain": [2, 0, 1]})
    drawn = list(again.samples.values())
    judged = {
        m.name: again.judged("x", m.name, split="forget") | again.judged("x", m.name, split="retain") for m in metrics
    }
    moved = [Score(sample_id=s.id, metric=name, value=of.get(s.id)) for name, of in judged.items() for s in drawn]
    plain = scoring.aggregate("x", drawn, moved, metrics)
    assert [r.value for r in again.results] == [pytest.approx(r.value, abs=1e-12) for r in plain]
    assert [r.value for r in plain] != [r.value for r in results]


def test_the_same_seed_gives_the_same_bounds_whatever_else_is_there() -> None:
    world = utility_world(rng(1), 6)
    found = intervals("model_utility", world, seed=4)["x", ""]
    assert intervals("model_utility", world, seed=4)["x", ""] == found
    assert intervals("model_utility", world, seed=5)["x", ""] != found
    turned = dict(reversed(list(world.samples.items())))
    more = turned | {"h": asked("h", "hugo", "holdout"), "i": asked("i", "ines", "holdout")}
    other = ScoredRun(samples=more, values={**world.values, "a": world.values["x"]}, responses={}, average=list)
    bounds = intervals("model_utility", other, seed=4)["x", ""]
    assert [bounds.low, bounds.high] == pytest.approx([found.low, found.high])


def test_where_there_is_no_interval_the_note_says_why() -> None:
    one = everything([asked("a", "anna")], {"x": {"keyword_match": {"a": 0.5}}})
    row = intervals("ape", one)["x", "mean"]
    assert (row.value, row.low, row.high, row.note) == (0.5, None, None, "no interval from one fact")
    alike = everything([asked("a", "anna"), asked("b", "ben")], {"x": {"keyword_match": {"a": 0.5, "b": 0.5}}})
    assert intervals("ape", alike)["x", "mean"].note == "no interval: the same in every draw of people"
    # the town of Anna alone was asked, which is in three of four draws
    towns = everything([asked("a", "anna", attribute="town"), asked("b", "ben")], {"x": {"right": {"a": 1, "b": 0}}})
    assert "cannot be computed in 2" in intervals("by_attribute", towns)["x", "town"].note
    ratios: Values = {"truth_ratio": {"a": 0.5, "b": 0.7}}
    distances = intervals("forget_quality", everything(list(alike.samples.values()), {"retain_model": ratios}))
    assert {row.note for row in distances.values()} == {
        "no interval: a p-value is no estimate", "no interval: luck only adds to a distance",
    }  # fmt: skip


@pytest.mark.parametrize(("asked_too", "least"), [(4, 0.6), (6, 0.45)])
def test_a_kind_of_fact_that_few_people_have_counts_these_people(asked_too: int, least: float) -> None:
    """Of 40 people all have a job, and the first few a pet: told by all of them but one."""
    samples = [asked(f"job{n}", f"p{n:02}") for n in range(40)]
    samples += [asked(f"pet{n}", f"p{n:02}", attribute="pet") for n in range(asked_too)]
    right: dict[str, float | None] = {s.id: float(s.id not in ("pet0", "job0", "job1")) for s in samples}
    every = everything(samples, {"x": {"right": right}})
    (summary,) = build_all(["by_attribute"])
    behind = summary.behind(every)["x", "by_attribute", "pet", "forget", "text"]
    found = intervals("by_attribute", every)
    pet, job = found["x", "pet"], found["x", "job"]
    assert list(behind) == [f"pet{n}" for n in range(asked_too)] and pet.num == asked_too
    assert pet.low is not None and pet.high is not None and pet.high - pet.low > least
    drawn = [v for n in range(DRAWS) if (v := told_pets(every, n)) is not None]
    spread = sum((v - sum(drawn) / len(drawn)) ** 2 for v in drawn) / len(drawn) * asked_too / (asked_too - 1)
    shown = interval_around(1 - 1 / asked_too, spread, asked_too - 1, (0.0, 1.0), asked_too)
    assert (pet.low, pet.high) == pytest.approx(shown)
    alone = everything(samples[:40], {"x": {"right": right}})
    assert intervals("by_attribute", alone)["x", "job"] == job, "a kind of fact that all have counts all"


def told_pets(every: ScoredRun, number: int) -> float | None:
    """What one draw gives, if somebody with a pet is drawn."""
    rows = build_all(["by_attribute"])[0].summarise(PeopleGroups(every).drawn(0, number))
    return next((row.value for row in rows if row.detail == "pet"), None)


def test_bands_and_groups_of_retained_people_name_the_samples_behind_them() -> None:
    """Rita shares the job of Fay, who is to be forgotten; of four retained people two are women."""
    people = {"fay": ("nurse", "female"), "rita": ("nurse", "female"), "rob": ("cook", "male"),
              "roy": ("smith", "male"), "ruth": ("baker", "female")}  # fmt: skip
    samples = [asked(f"q_{name}", name, "forget" if name == "fay" else "retain", value=job)
               for name, (job, _) in people.items()]  # fmt: skip
    right: dict[str, float | None] = dict.fromkeys((s.id for s in samples), 1.0)
    known = {name: {"job": job, "gender": gender} for name, (job, gender) in people.items()}
    every = everything(samples, {"x": {"right": right}, "target": {"right": right}}, people=known)
    neighbours, groups = (build_all([name])[0].behind(every) for name in ("near_neighbours", "by_group"))
    found = {key[2]: sorted(names) for key, names in neighbours.items() if key[0] == "x"}
    assert found == {
        "none shared": ["q_rob", "q_roy"], "one shared": ["q_ruth"], "two or more shared": ["q_rita"],
        "shared facts": ["q_rita"],
    }  # fmt: skip
    assert {key[2]: sorted(names) for key, names in groups.items() if key[0] == "x"} == {
        "female": ["q_rita", "q_ruth"], "male": ["q_rob", "q_roy"],
    }  # fmt: skip


def test_a_number_whose_draws_all_miss_it_has_no_interval() -> None:
    class Different(type(build_all(["ape"])[0])):  # type: ignore[misc]
        def summarise(self, every: ScoredRun) -> list[Summary]:
            people = {sample.profile_id.partition("#")[0] for sample in every.samples.values()}
            return [self.row("x", float(len(people)))]

    samples = [asked(f"s{n}", f"p{n}") for n in range(40)]
    (row,) = with_intervals([Different()], everything(samples, {"x": {}}))
    assert (row.value, row.low, row.note) == (40, None, "no interval: moves one way when people are drawn twice")


TRUTH = 3 / (1 / 0.5 + 1 / 0.6 + 1 / 0.75)


def utility_world(dice: Random, people: int) -> ScoredRun:
    """Retain and celebrity people of whom more or less is known; the three parts have means 0.5, 0.6 and 1 - 0.25."""
    samples = []
    names = ("probability", "normalised_probability", "rougeL_recall", "truth_ratio")
    values: dict[str, dict[str, float | None]] = {name: {} for name in names}
    sets: tuple[Split, ...] = ("retain", "celebrity")
    for split in sets:
        for person in range(people):
            known = dice.random()
            for question in range(2):
                name = f"{split}{person}.{question}"
                samples.append(asked(name, f"{split}{person}", split))
                likely = 0.8 * known + 0.2 * dice.random()
                values["probability"][name] = values["normalised_probability"][name] = likely
                values["rougeL_recall"][name] = float(dice.random() < 0.3 + 0.6 * known)
                values["truth_ratio"][name] = (1 - known) * dice.random()
    return everything(samples, {"x": values})


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    summaries = build_all(["model_utility"])
    rows = [with_intervals(summaries, utility_world(rng(n), 8), seed=n)[0] for n in range(200)]
    held = sum(row.low <= TRUTH <= row.high for row in rows if row.low is not None and row.high is not None)
    assert 176 <= held <= 198


@pytest.mark.parametrize(("people", "width"), [(1, 0.594), (2, 0.427), (3, 0.829), (5, 0.540)])
def test_so_do_those_of_few_people(people: int, width: float) -> None:
    """Of one or two people their own share of told facts, else that of all people, who differ from each other."""
    held, widths = 0, []
    for number in range(50):
        dice = rng(number, people)
        levels = [dice.betavariate(0.6 * 7 / 3, 0.4 * 7 / 3) for _ in range(people)]  # correlation 0.3 within people
        samples = [asked(f"{p}.{f}", f"p{p}", attribute=f"fact {f}") for p in range(people) for f in range(9)]
        told = {s.id: float(dice.random() < levels[int(s.id[0])]) for s in samples}
        row = intervals("ape", everything(samples, {"x": {"keyword_match": dict(told)}}), seed=number)["x", "mean"]
        if row.low is None or row.high is None:  # all alike
            held += 1
            continue
        held += row.low <= (sum(levels) / people if people <= 2 else 0.6) <= row.high
        widths.append(row.high - row.low)
    assert held >= 45
    assert median(widths) == pytest.approx(width, abs=0.005)
