"""Tuning: only selection questions are used, every method has the same budget, and a stopped search goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mini_run
import pytest

from mllmu.config import load as recipes
from mllmu.core import plugins
from mllmu.core.errors import RecipeError
from mllmu.core.process import SilentProgress
from mllmu.core.records import Response, Sample
from mllmu.core.runfolder import RunFolder, read_lines

pytest.importorskip("optuna")

from mllmu.studies import tune as tuning

METHODS = "unlearn.methods=[{name: ga, learning_rate: 0.01}, {name: npo, beta: 0.2, learning_rate: 0.01}, prompting]"
SELECTION = "data.splits.selection=0.5"


def search(base: Path, root: Path, *overrides: str, num_trials: int = 2, **how: Any) -> list[tuning.Trial]:
    recipe = recipes.parse(mini_run.settings(base, SELECTION, METHODS, *overrides))
    return tuning.tune(recipe, root, num_trials=num_trials, progress=SilentProgress(), **how)


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuning.Trial]]:
    root = tmp_path_factory.mktemp("tune") / "run"
    return root, search(base, root)


def test_every_training_method_gets_the_same_number_of_trials_its_own_settings_first(
    tuned: tuple[Path, list[tuning.Trial]],
) -> None:
    trials = tuned[1]
    assert sorted((t.method, t.number) for t in trials) == [("ga", 0), ("ga", 1), ("npo", 0), ("npo", 1)]
    own = next(t for t in trials if t.method == "npo" and t.number == 0)
    assert (own.settings["beta"], own.settings["learning_rate"]) == (0.2, 0.01)
    other = next(t for t in trials if t.method == "npo" and t.number == 1)
    assert other.settings != own.settings
    assert 0.05 <= other.settings["beta"] <= 0.8
    assert all(t.objective == pytest.approx(t.gap + t.loss) for t in trials)


def test_the_settings_tried_depend_on_no_other_entry(
    base: Path, tmp_path: Path, tuned: tuple[Path, list[tuning.Trial]]
) -> None:
    alone = search(base, tmp_path / "run", METHODS.replace("{name: ga, learning_rate: 0.01}, ", ""))
    of_npo = [trial for trial in tuned[1] if trial.method == "npo"]
    assert [(t.number, t.settings, t.objective) for t in alone] == [(t.number, t.settings, t.objective) for t in of_npo]


def test_no_reported_question_is_asked(tuned: tuple[Path, list[tuning.Trial]]) -> None:
    samples = read_lines(tuned[0] / "tune/eval/forget_40/samples.jsonl", Sample)
    assert {sample.part for sample in samples} == {"selection"}
    assert {sample.split for sample in samples} == {"forget", "retain", "celebrity"}


def test_the_best_settings_are_a_recipe_that_can_be_run(tuned: tuple[Path, list[tuning.Trial]]) -> None:
    root, trials = tuned
    best = recipes.load(root / RunFolder.TUNED_RECIPE)
    first = {name: next(t for t in trials if t.method == name) for name in ("ga", "npo")}
    assert [spec.name for spec in best.unlearn.methods] == ["ga", "npo", "prompting"]
    for spec in best.unlearn.methods[:2]:
        assert spec.settings == first[spec.name].settings
        assert first[spec.name].objective == min(t.objective for t in trials if t.method == spec.name)


def test_a_search_that_was_stopped_goes_on_and_gives_the_same_trials(
    base: Path, tuned: tuple[Path, list[tuning.Trial]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, trials = tuned
    before = mini_run.unit_times(root)
    longer = search(base, root, num_trials=3)
    after = mini_run.unit_times(root)
    assert {name: after[name] for name in before} == before, "nothing is trained or asked again"
    assert len(after) > len(before)
    known = {(t.method, t.number): t for t in longer}
    assert all(known[t.method, t.number] == t for t in trials)
    lines = (root / RunFolder.TRIALS_FILE).read_text().splitlines()
    assert [json.loads(line)["method"] for line in lines] == ["ga"] * 3 + ["npo"] * 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.splits.selection=0", r"data\.splits\.selection: 0 keeps no question apart"),
        ("unlearn.methods=[prompting]", "no method with anything to tune"),
    ],
)
def test_what_cannot_be_tuned_is_said_before_any_work(base: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        search(base, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


def test_a_ratio_that_is_not_in_the_recipe_is_named(base: Path, tuned: tuple[Path, list[tuning.Trial]]) -> None:
    with pytest.raises(RecipeError, match=r"--ratio 5: not a forget ratio.*Expected one of: 40"):
        search(base, tuned[0], key="5")


def test_a_trial_of_several_requests_carries_out_all_and_counts_what_the_people_keep(
    base: Path, tmp_path: Path
) -> None:
    requests = "unlearn.requests=[{attributes: [salary, hobby]}, {attributes: [pet]}]"
    quick = ("unlearn.methods=[{name: ga, modality: text}]", "finetune.epochs=1", "evaluate.modalities=[text]")
    (trial,) = search(base, tmp_path / "run", requests, *quick, "data.splits.selection=0.6", num_trials=1)
    made = sorted(path.name for path in (tmp_path / "run/models/forget_40").glob("tune_*"))
    assert made == ["tune_0_ga_0", "tune_0_ga_0@1", "tune_0_ga_0@2"]
    samples = read_lines(tmp_path / "run/tune/eval/forget_40/samples.jsonl", Sample)
    assert {sample.split for sample in samples} == {"forget", "kept", "retain", "celebrity"}
    assert trial.seconds > 0
    scores = {("retain", "text"): 1.0, ("kept", "text"): 0.5, ("forget", "text"): 0.0}
    assert tuning.utility(scores) == {"text": 0.75}


def test_what_is_switched_off_is_not_searched_and_no_bound_is_passed() -> None:
    def space(name: str, **settings: float) -> dict[str, tuple[float, float]]:
        return tuning.search_space(plugins.build("methods", name, settings))

    assert "kl_weight" not in space("npo")
    assert space("npo", kl_weight=0.5)["kl_weight"] == (0.125, 2.0)
    assert space("salun", share=0.5)["share"] == (0.125, 1.0)
    for name, key in (("manu", "share"), ("steering", "false_alarms"), ("router", "false_alarms")):
        low, high = space(name, **{key: 0.9})[key]
        assert (low, high) == (0.225, 0.999), "1 itself is no share"
        assert space(name, **{key: 0.9995})[key][1] == 0.9995, "the setting of the recipe is tried too"
    assert space("retrain") == {}
    assert space("manu") == {"share": (0.0125, 0.2)}  # changes the model without training


def test_an_unreadable_reply_does_not_help() -> None:
    def sample(split: str, number: int) -> Sample:
        fields = {"question_id": "q", "profile_id": "1", "attribute": "residence", "value": "Riga", "target": "A"}
        options = {"A": "Riga", "B": "Oslo"}
        return Sample.model_validate(
            fields | {"id": f"{split}/{number}", "split": split, "task": "classification", "modality": "text"}
            | {"prompt": "?", "options": options, "max_new_tokens": 4}
        )  # fmt: skip

    samples = [sample("forget", 0), sample("forget", 1), sample("retain", 2), sample("retain", 3)]

    def scores(*texts: str) -> dict[Any, float]:
        replies = [Response(sample_id=s.id, text=t, num_tokens=1, finished=True) for s, t in zip(samples, texts)]  # noqa: B905
        return tuning.main_scores(samples, replies)

    target, gold = scores("A", "A", "A", "A"), scores("B", "B", "A", "A")
    assert tuning.gap_and_loss(scores("%%", "%%", "%%", "A"), target, gold) == (1.0, 0.5), "known, and lost"
    assert tuning.gap_and_loss(gold, target, gold) == (0, 0)


def test_the_objective_counts_the_utility_that_is_reported() -> None:
    def scores(forget: float, retain: float, celebrity: float) -> dict[Any, float]:
        named = {"forget": forget, "retain": retain, "celebrity": celebrity}
        return {(split, m): value for split, value in named.items() for m in ("image_text", "text")}

    target, gold = scores(1.0, 0.8, 0.6), scores(0.25, 0.8, 0.6)
    assert tuning.gap_and_loss(scores(0.25, 0.8, 0.2), target, gold) == pytest.approx((0.0, 0.2))
    # what retain loses, celebrity can make up for, as in the mean of the two
    assert tuning.gap_and_loss(scores(0.5, 0.7, 0.7), target, gold) == pytest.approx((0.25, 0.0))
    gained = scores(0.25, 1.0, 1.0) | {("retain", "text"): 0.1, ("celebrity", "text"): 0.1}
    assert tuning.gap_and_loss(gained, target, gold) == pytest.approx((0.0, 0.3)), (
        "not made up for in the other modality"
    )
