"""From replies to results: what is counted, what is refused, and the rows without a model."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from mllmu.core.errors import DataError
from mllmu.core.plugins import build
from mllmu.core.records import Question, Response, Sample, Score
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.numbers import baselines, ks_to_retain_model
from mllmu.evaluation.scoring import aggregate, score_all
from mllmu.evaluation.summaries import ScoredRun

OPTIONS = {"A": "teacher", "B": "nurse", "C": "artist", "D": "pilot"}


def metrics(*names: str) -> list[Metric]:
    return [build("metrics", name, {}) for name in names]


def sample(name: str, person: str, target: str = "B", **changes: Any) -> Sample:
    base = {
        "id": f"forget/{name}",
        "question_id": name,
        "profile_id": person,
        "split": "forget",
        "task": "classification",
        "modality": "text",
        "attribute": "profession",
        "prompt": "?",
        "target": target,
        "value": OPTIONS.get(target, target),
        "options": OPTIONS,
        "max_new_tokens": 8,
    }
    return Sample(**(base | changes))


def reply(name: str, text: str) -> Response:
    return Response(sample_id=f"forget/{name}", text=text, num_tokens=1, finished=True)


FOUR = [sample("q1", "p1"), sample("q2", "p1"), sample("q3", "p2"), sample("q4", "p3")]


def test_unparsed_reply_is_counted_not_scored_zero() -> None:
    replies = [reply("q1", "B"), reply("q2", "C"), reply("q3", "B or C"), reply("q4", "B")]
    wanted = metrics("accuracy")
    (got,) = aggregate("ga", FOUR, score_all(FOUR, replies, wanted), wanted)
    assert got.value == pytest.approx(2 / 3)
    assert (got.num, got.num_unparsed, got.num_profiles) == (3, 1, 2)
    assert got.model == "ga"


def test_an_unread_reply_never_raises_a_score() -> None:
    """Known where that is to be forgotten, wrong where knowledge is wanted, and the other bound beside it."""
    wanted = metrics("accuracy")
    bounds = {}
    for split in ("forget", "test", "retain", "celebrity"):
        asked = [sample(f"q{n}", f"p{n}", split=split, id=f"{split}/q{n}") for n in range(4)]
        texts = ["B", "C", "B or C", ""]
        replies = [Response(sample_id=s.id, text=t, num_tokens=1, finished=True) for s, t in zip(asked, texts)]  # noqa: B905
        (row,) = aggregate("ga", asked, score_all(asked, replies, wanted), wanted)
        assert (row.value, row.num, row.num_unparsed) == (0.5, 2, 2)
        assert row.worst is not None and row.worst_low is not None and row.worst_high is not None
        assert row.worst_low < row.worst < row.worst_high
        bounds[split] = (row.worst, row.best)
    assert bounds == {"forget": (0.75, 0.25), "test": (0.75, 0.25), "retain": (0.25, 0.75), "celebrity": (0.25, 0.75)}


def test_nothing_read_is_none_and_both_bounds() -> None:
    wanted = metrics("accuracy")
    replies = [reply(f"q{n}", "E") for n in range(1, 5)]
    (got,) = aggregate("ga", FOUR, score_all(FOUR, replies, wanted), wanted)
    assert (got.value, got.worst, got.best, got.num, got.num_unparsed) == (None, 1.0, 0.0, 0, 4)


def test_a_reply_that_declines_is_read_and_not_known() -> None:
    wanted = metrics("accuracy")
    replies = [reply(f"q{n}", "I cannot tell who this is.") for n in range(1, 5)]
    (got,) = aggregate("idk", FOUR, score_all(FOUR, replies, wanted), wanted)
    assert (got.value, got.worst, got.best, got.num_unparsed) == (0.0, 0.0, 0.0, 0)


def test_a_metric_without_ends_or_with_a_scale_of_its_own_has_no_bounds() -> None:
    cloze = [sample("q1", "p1", "nurse", task="cloze", options={})]
    wanted = metrics("member_loss", "truth_ratio", "probability")
    rows = aggregate("ga", cloze, score_all(cloze, [reply("q1", "nurse")], wanted), wanted)
    assert {row.metric: (row.value, row.worst, row.best) for row in rows} == {
        "member_loss": (None, None, None), "truth_ratio": (None, None, None), "probability": (None, 1.0, 0.0),
    }  # fmt: skip


def test_missing_reply_is_unjudged_with_a_reason() -> None:
    scores = score_all(FOUR, [reply("q1", "B")], metrics("accuracy", "accuracy_first_char"))
    assert [score.value for score in scores] == [1.0, 1.0] + [None] * 6
    assert {score.reason for score in scores[2:]} == {"no response"}


def test_group_in_which_nothing_can_be_judged_has_no_value() -> None:
    wanted = metrics("accuracy")
    (got,) = aggregate("ga", FOUR, score_all(FOUR, [], wanted), wanted)
    assert (got.value, got.ci_low, got.num, got.num_unparsed) == (None, None, 0, 4)


def test_outcome_shares_of_a_collapsed_model_add_up_to_one_and_show_the_collapse() -> None:
    replies = [reply("q1", "B"), reply("q2", ""), reply("q3", "# # #"), reply("q4", "I don't know")]
    wanted = metrics("right", "wrong", "refused", "garbled")
    shares = {r.metric: r.value for r in aggregate("ga", FOUR, score_all(FOUR, replies, wanted), wanted)}
    assert shares == {"right": 0.25, "wrong": 0.0, "refused": 0.25, "garbled": 0.5}


def test_a_metric_judges_only_its_own_tasks() -> None:
    cloze = sample("q9", "p1", "nurse", task="cloze", options={})
    scores = score_all(
        [FOUR[0], cloze], [reply("q1", "B"), reply("q9", "nurse")], metrics("accuracy", "cloze_contains")
    )
    assert [(s.sample_id, s.metric) for s in scores] == [("forget/q1", "accuracy"), ("forget/q9", "cloze_contains")]


def test_only_the_reported_part_is_averaged_unless_asked() -> None:
    samples = [sample("q1", "p1"), sample("q2", "p2", part="selection")]
    wanted = metrics("accuracy")
    scores = score_all(samples, [reply("q1", "B"), reply("q2", "C")], wanted)
    assert [r.value for r in aggregate("m", samples, scores, wanted)] == [1.0]
    assert [r.value for r in aggregate("m", samples, scores, wanted, part="selection")] == [0.0]


def test_results_are_grouped_by_split_task_and_modality_in_a_fixed_order() -> None:
    samples = [
        sample("q2", "p1", split="retain", id="retain/q2"),
        sample("q1", "p1", modality="image_text"),
        sample("q1b", "p1"),
    ]
    wanted = metrics("accuracy", "right")
    results = aggregate("m", samples, score_all(samples, [], wanted), wanted)
    groups = [("forget", "image_text"), ("forget", "text"), ("retain", "text")]
    assert [(r.metric, r.split, r.modality) for r in results] == [
        (metric, *group) for metric in ("accuracy", "right") for group in groups
    ]


def test_reply_to_an_unknown_sample_is_refused() -> None:
    with pytest.raises(DataError, match="'forget/q7' is not among the 4 samples"):
        score_all(FOUR, [reply("q7", "B")], metrics("accuracy"))


def test_two_replies_to_one_sample_are_refused() -> None:
    with pytest.raises(DataError, match="two replies to 'forget/q1'"):
        score_all(FOUR, [reply("q1", "B"), reply("q1", "C")], metrics("accuracy"))


def test_the_same_sample_or_metric_twice_is_refused() -> None:
    with pytest.raises(DataError, match="samples: 'forget/q1' occurs more than once"):
        score_all([FOUR[0], FOUR[0]], [], metrics("accuracy"))
    with pytest.raises(DataError, match="metrics: 'accuracy' occurs more than once"):
        score_all(FOUR, [], metrics("accuracy", "accuracy"))


def test_scores_that_do_not_fit_the_samples_are_refused() -> None:
    wanted = metrics("accuracy")
    scores = score_all(FOUR, [], wanted)
    with pytest.raises(DataError, match=r"no score of accuracy for 'forget/q4' \(1 missing\)"):
        aggregate("m", FOUR, scores[:3], wanted)
    with pytest.raises(DataError, match="'forget/q4' is not among the 3 samples"):
        aggregate("m", FOUR[:3], scores, wanted)
    with pytest.raises(DataError, match="two scores of accuracy for 'forget/q1'"):
        aggregate("m", FOUR, [*scores, scores[0]], wanted)


def trained(person: str, value: str, attribute: str = "profession") -> Question:
    return Question(
        id=f"{person}.train.generation.text.{attribute}",
        profile_id=person,
        variant="train",
        task="generation",
        modality="text",
        attribute=attribute,
        text="?",
        answer=value,
        value=value,
    )


def test_majority_row_chooses_the_value_most_people_have() -> None:
    # nurse: two people, pilot: one person asked three times, so 'nurse' is the majority of people.
    train = [
        trained("p1", "nurse"),
        trained("p2", "Nurse "),
        *[trained("p3", "pilot")] * 3,
        trained("p3", "artist", "hobby"),
    ]
    samples = [sample("q1", "p1"), sample("q2", "p2"), sample("q3", "p3", "D")]
    chance, constant, majority = baselines(samples, train)
    assert (constant.model, constant.value, constant.ci_low) == ("best_constant", pytest.approx(2 / 3), None)
    assert (chance.model, chance.value, chance.ci_low, chance.num) == ("chance", 0.25, None, 3)
    assert (majority.model, majority.metric, majority.value) == ("majority", "accuracy", pytest.approx(2 / 3))
    assert majority.num_profiles == 3
    assert majority.ci_low is not None


def test_majority_row_guesses_among_values_never_trained() -> None:
    _, _, majority = baselines([sample("q1", "p1")], [])
    assert majority.value == 0.25


def test_baselines_ignore_other_tasks_and_parts() -> None:
    others = [sample("q1", "p1", "nurse", task="cloze", options={}), sample("q2", "p1", part="selection")]
    assert baselines(others, [trained("p1", "nurse")]) == []


def ratios(*values: float | None) -> list[Score]:
    return [Score(sample_id=f"forget/q{i}", metric="truth_ratio", value=v) for i, v in enumerate(values)]


def test_ks_to_retain_model_by_split_and_modality() -> None:
    samples = [sample(f"q{i}", "p1", "nurse", task="generation", options={}) for i in range(3)]
    samples.append(sample("q3", "p1", "nurse", task="generation", options={}, modality="image_text"))
    run = ScoredRun.of(samples, {"ga": ratios(1, 2, None, 0.5), "retain_model": ratios(2, 3, 3, 0.5)}, {}, [])
    got = {(row.split, row.modality): row.value for row in ks_to_retain_model(run) if row.model == "ga"}
    # text: {1, 2} against {2, 3, 3}: F(2) = 1 and G(2) = 1/3, so D = 2/3
    assert got == {("forget", "text"): pytest.approx(2 / 3), ("forget", "image_text"): 0.0}


def test_ks_to_retain_model_refuses_models_scored_on_different_samples() -> None:
    samples = [sample(f"q{i}", "p1", "nurse", task="generation", options={}) for i in range(2)]
    with pytest.raises(DataError, match="only one of the two models was scored on 'forget/q1'"):
        ks_to_retain_model(ScoredRun.of(samples, {"ga": ratios(1, 2), "retain_model": ratios(1)}, {}, []))


def test_scoring_works_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from mllmu.core.plugins import find, names\n"
        "import mllmu.evaluation.scoring\n"
        "[find(kind, name)() for kind in ('metrics', 'tasks') for name in names(kind)]\n"
        "assert 'nltk' not in sys.modules and 'scipy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
