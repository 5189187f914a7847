"""Five sets of questions, rendered once: the right people, the right images, and a part kept apart for tuning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllmu.config.recipe import DataSection, Evaluate
from mllmu.core.process import SilentProgress
from mllmu.core.records import PEOPLE_SPLITS, Profile, Question, Sample
from mllmu.data import build
from mllmu.data.dataset import Dataset, load
from mllmu.data.portraits import Portraits
from mllmu.evaluation.metrics import metrics_of
from mllmu.evaluation.samples import render, set_aside, with_both_parts


class Painted(Portraits):
    """One colour per person and view."""

    def render(self, profile: Profile, view: int, seed: int) -> Image.Image:
        del seed
        return Image.new("RGB", (self.size, self.size), (int(profile.id[-2:]), ord(profile.id[0]), view))


def make(folder: Path, num_views: int) -> Dataset:
    section = DataSection.model_validate(
        {
            "source": {"num_people": 8},
            "celebrities": {"num_people": 6},
            "portraits": {"name": "test_evaluation_samples:Painted", "size": 32, "num_views": num_views},
            "splits": {"forget_ratios": [0.25, 0.5], "holdout": 2},
            "train_wordings": 1,
        }
    )
    build.make(section, 0, folder, SilentProgress())
    return load(folder)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make(tmp_path_factory.mktemp("data"), 4)


def ask(dataset: Dataset, *, key: str = "50", selection: float = 0.0, seed: int = 0, **evaluate: Any) -> list[Sample]:
    return render(dataset, key, Evaluate(**evaluate), selection=selection, seed=seed)


def people(samples: list[Sample], split: str) -> set[str]:
    return {sample.profile_id for sample in samples if sample.split == split}


def test_every_set_has_its_people_and_nobody_else(dataset: Dataset) -> None:
    samples = ask(dataset)
    assert people(samples, "forget") == people(samples, "test") == set(dataset.splits["50"])
    assert people(samples, "retain") == set(dataset.retained("50"))
    assert people(samples, "celebrity") == set(dataset.celebrities)
    assert people(samples, "holdout") == set(dataset.holdout)
    sides = [people(samples, split) for split in ("forget", "retain", "celebrity", "holdout")]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 8 + 6 + 2
    assert Counter(sample.split for sample in samples) == {
        split: 18 * len(people(samples, split)) for split in PEOPLE_SPLITS
    }


def test_every_sample_is_asked_once_and_comes_set_by_set(dataset: Dataset) -> None:
    samples = ask(dataset)
    assert len({sample.id for sample in samples}) == len(samples)
    assert list(dict.fromkeys(sample.split for sample in samples)) == list(PEOPLE_SPLITS)
    assert all(sample.id == f"{sample.split}/{sample.question_id}" for sample in samples)


def test_only_the_test_set_shows_transformed_views_and_it_shows_no_other(dataset: Dataset) -> None:
    samples = ask(dataset)
    shown = {split: Counter(s.image[-6:] for s in samples if s.split == split and s.image) for split in PEOPLE_SPLITS}
    for split in ("forget", "retain", "celebrity", "holdout"):
        assert set(shown[split]) == {"_0.png"}
    assert set(shown["test"]) == {"_1.png", "_2.png", "_3.png"}
    assert max(shown["test"].values()) - min(shown["test"].values()) <= len(people(samples, "test"))
    for sample in samples:
        assert (sample.modality == "image_text") == bool(sample.image)
        assert not sample.image or sample.image.startswith(f"images/{sample.profile_id}_")
        assert not sample.image or (dataset.folder / sample.image).is_file()


def test_without_transformed_views_the_test_set_asks_by_name_only(tmp_path: Path) -> None:
    samples = ask(make(tmp_path, 1))
    assert {s.modality for s in samples if s.split == "test"} == {"text"}
    assert {s.modality for s in samples if s.split == "forget"} == {"text", "image_text"}


def test_the_test_set_has_other_words_than_the_forget_set(dataset: Dataset) -> None:
    samples = ask(dataset)
    words = {split: {s.prompt for s in samples if s.split == split} for split in ("forget", "test")}
    assert not words["forget"] & words["test"]


def test_no_training_pair_is_asked(dataset: Dataset) -> None:
    taught = {q.id for q in dataset.questions if q.variant == "train"}
    assert taught
    assert not taught & {sample.question_id for sample in ask(dataset)}


def test_a_limit_keeps_the_same_people_in_forget_and_test(dataset: Dataset) -> None:
    limited = ask(dataset, max_profiles={"forget": 2, "test": 2, "retain": 3, "celebrity": 1, "holdout": 0})
    assert len(people(limited, "forget")) == 2
    assert people(limited, "test") == people(limited, "forget")
    assert people(ask(dataset, max_profiles={"forget": 3, "test": 1}), "test") <= people(
        ask(dataset, max_profiles={"forget": 3, "test": 1}), "forget"
    )
    assert [len(people(limited, split)) for split in ("retain", "celebrity", "holdout")] == [3, 1, 0]
    everything = {sample.id: sample for sample in ask(dataset)}
    assert all(everything[sample.id] == sample for sample in limited), "a limit leaves people out, it changes nothing"


def test_a_limit_above_the_number_of_people_is_no_limit(dataset: Dataset) -> None:
    assert ask(dataset, max_profiles={"forget": 1000}) == ask(dataset)


def test_who_is_asked_under_a_limit_depends_on_the_seed(dataset: Dataset) -> None:
    chosen = {frozenset(people(ask(dataset, seed=s, max_profiles={"retain": 1}), "retain")) for s in range(12)}
    assert len(chosen) > 1


def test_no_reported_question_asks_a_fact_that_was_searched_on(dataset: Dataset) -> None:
    samples = ask(dataset, selection=0.3)
    aside = [sample for sample in samples if sample.part == "selection"]
    assert {sample.split for sample in aside} == {"forget", "test", "retain", "celebrity"}
    searched, reported = (
        {(s.profile_id, s.attribute) for s in samples if s.part == part} for part in ("selection", "report")
    )
    assert not searched & reported
    # 14 people with 5 to 9 facts each, at 0.3: 4 standard deviations around the mean
    share = len(searched) / len(searched | reported)
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / len(searched | reported)) ** 0.5
    assert all(sample.part == "report" for sample in ask(dataset))


def test_questions_of_unknown_attribute_stay_together_by_their_value(dataset: Dataset) -> None:
    def question(value: str, attribute: str, number: int) -> Question:
        found = next(q for q in dataset.questions if q.task == "cloze")
        return found.model_copy(update={"value": value, "attribute": attribute, "id": f"x.{number}"})

    values = [f"value {number}" for number in range(40)]
    sides = {value: {set_aside(question(v, "other", 0), 0.5, 0) for v in (value, value.upper())} for value in values}
    assert all(len(side) == 1 for side in sides.values())
    assert len({side.pop() for side in sides.values()}) == 2, "not all on one side"
    assert len({set_aside(question(value, "pet", 0), 0.5, 0) for value in values}) == 1


@pytest.mark.parametrize(("share", "rare"), [(1e-9, "selection"), (1 - 1e-9, "report")])
def test_facts_that_are_all_drawn_to_one_side_leave_one_on_the_other(dataset: Dataset, share: float, rare: str) -> None:
    drawn = ask(dataset, selection=share)
    divided = with_both_parts(drawn, seed=0)
    for sets in (("forget", "test"), ("retain",), ("celebrity",)):
        facts = {(s.profile_id, s.attribute) for s in divided if s.split in sets and s.part == rare}
        assert len(facts) == 1, sets
        assert {s.part for s in divided if s.split in sets and (s.profile_id, s.attribute) in facts} == {rare}
    assert [s.model_copy(update={"part": "report"}) for s in divided] == [
        s.model_copy(update={"part": "report"}) for s in drawn
    ], "nothing else changes"
    one = [s for s in drawn if (s.profile_id, s.attribute) == (drawn[0].profile_id, drawn[0].attribute)]
    assert with_both_parts(one, seed=0) == one, "a single fact cannot be on both sides"


def test_facts_on_both_sides_stay_where_they_were_drawn(dataset: Dataset) -> None:
    drawn = ask(dataset, selection=0.3)
    assert with_both_parts(drawn, seed=0) == drawn


def test_the_selection_part_grows_with_its_share_and_does_not_depend_on_what_else_is_asked(
    dataset: Dataset,
) -> None:
    def aside(share: float, **evaluate: Any) -> set[str]:
        return {s.id for s in ask(dataset, selection=share, **evaluate) if s.part == "selection"}

    assert aside(0.2) < aside(0.4)
    assert aside(0.4, tasks=("cloze",)) == {name for name in aside(0.4) if ".cloze." in name}
    assert aside(0.4) == aside(0.4)


def test_only_the_modalities_of_the_recipe_are_asked(dataset: Dataset) -> None:
    every, has_image = ask(dataset), ask(dataset, modalities=["image_text"])
    assert has_image == [sample for sample in every if sample.modality == "image_text"]
    assert 0 < len(has_image) < len(every)


def test_only_the_tasks_of_the_recipe_are_asked(dataset: Dataset) -> None:
    assert {sample.task for sample in ask(dataset, tasks=("cloze", "classification"))} == {"cloze", "classification"}


def test_metrics_are_those_named_or_all_of_the_tasks_each_once() -> None:
    assert [metric.name for metric in metrics_of(Evaluate(metrics=("right", "rouge1", "right")))] == ["right", "rouge1"]
    every = [metric.name for metric in metrics_of(Evaluate())]
    assert len(set(every)) == len(every)
    assert {"accuracy", "rougeL", "cloze_exact", "right"} <= set(every)
    assert "rougeL" not in [metric.name for metric in metrics_of(Evaluate(tasks=("classification",)))]
