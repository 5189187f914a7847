"""Summaries by hand, on a handful of scores."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mllmu.config.recipe import Evaluate
from mllmu.core import plugins
from mllmu.core.declared import closeness
from mllmu.core.errors import RecipeError
from mllmu.core.records import TASKS, CandidateLogp, MetricResult, Response, Sample, Score, Summary
from mllmu.evaluation.bootstrap import summarise
from mllmu.evaluation.metrics import measured, metrics_of
from mllmu.evaluation.stats import harmonic_mean, unit_of
from mllmu.evaluation.summaries import OVERVIEW, ScoredRun, Summariser, build_all
from mllmu.evaluation.summaries.both_ways import overlap, shares
from mllmu.evaluation.summaries.diversity import distinct
from mllmu.evaluation.summaries.privleak import privleak

Numbers = dict[str, list[float | None]]


def asked(number: int, **changes: Any) -> Sample:
    fields = {
        "id": f"s{number}", "question_id": f"q{number}", "profile_id": f"p{number}", "split": "forget",
        "task": "generation", "modality": "text", "attribute": "job", "prompt": "?", "target": "t", "value": "t",
        "max_new_tokens": 8,
    }  # fmt: skip
    return Sample.model_validate(fields | changes)


def run(name: str, samples: list[Sample], numbers: dict[str, Numbers], **more: Any) -> list[Summary]:
    """A summary from ``numbers``: model -> metric -> one value a sample."""
    scores = {
        model: [
            Score(sample_id=sample.id, metric=metric, value=value)
            for metric, values in of_model.items()
            for sample, value in zip(samples, values, strict=True)
        ]
        for model, of_model in numbers.items()
    }
    texts = more.get("texts", {})
    replies = {
        model: [
            Response(
                sample_id=sample.id, text=texts.get(model, ["x"] * len(samples))[place], num_tokens=1, finished=True,
                candidates={"target": CandidateLogp(logp=-1, num_tokens=len(sample.target))},
            )
            for place, sample in enumerate(samples)
        ]
        for model in numbers
    }  # fmt: skip
    made: Summariser = plugins.build("summaries", name, {})
    return summarise([made], ScoredRun.of(samples, scores, replies, more.get("results", [])))


def values(rows: list[Summary], model: str, **where: str) -> dict[str, float | None]:
    return {
        row.detail: row.value
        for row in rows
        if row.model == model and all(getattr(row, key) == value for key, value in where.items())
    }


def test_forget_quality_compares_distributions_with_the_retain_model() -> None:
    samples = [asked(n) for n in range(2)]
    rows = run(
        "forget_quality", samples,
        {"target": {"truth_ratio": [0.1, 0.2]}, "retain_model": {"truth_ratio": [0.8, 0.9]}, "x": {"truth_ratio": [0.9, 0.8]}},  # noqa: E501
    )  # fmt: skip
    assert values(rows, "target") == {"ks": 1.0, "js": 1.0, "p_value": pytest.approx(1 / 3)}
    assert values(rows, "x") == {"ks": 0.0, "js": 0.0, "p_value": 1.0}
    assert {row.split for row in rows} == {"forget"}


MEMBER = ("member_loss", "member_zlib", "member_min_k", "member_min_k_pp", "member_gradient")


def test_membership_ranks_forgotten_against_unknown_people() -> None:
    samples = [asked(0, target="aa"), asked(1, target="aa"), asked(2, split="holdout", target="aa"), asked(3, split="holdout", target="b")]  # fmt: skip  # noqa: E501
    target: list[float | None] = [-1.0, -2.0, -3.0, 0.0]
    known: list[float | None] = [-3.0, -3.0, -3.0, -1.0]
    rows = run(
        "membership", samples,
        {"target": dict.fromkeys(MEMBER, target), "retain_model": dict.fromkeys(MEMBER, known)},
    )  # fmt: skip
    got = values(rows, "target")
    # -1 and -2 beat -3 but not 0: 2 of 4 pairs; among answers of two tokens all; above the 0: none
    assert (got["loss auc"], got["loss matched_auc"], got["loss tpr_at_1"]) == (0.5, 1.0, 0.0)
    # minus the retain_model: 2, 1 against 0, 1: 3.5 of 4
    assert got["reference auc"] == 0.875
    assert values(rows, "retain_model")["loss auc"] == 0.25 - 0.25 + 0.25
    assert "reference auc" not in values(rows, "retain_model")


def test_membership_without_unknown_people_says_so() -> None:
    rows = run(
        "membership",
        [asked(0)],
        {"target": {key: [0.0] for key in MEMBER}, "retain_model": {key: [0.0] for key in MEMBER}},
    )
    assert {row.value for row in rows} == {None}
    assert {row.note for row in rows} == {"nothing to compare with"}


def test_privleak_has_a_sign_and_an_undefined_case() -> None:
    assert privleak(0.75, 0.5) == (-50.0, "")  # looks more known than in the retain_model
    assert privleak(0.25, 0.5) == (50.0, "")  # looks less known than there
    assert privleak(0.625, 0.75) == (50.0, "")  # likewise, though it looks more known than people never seen
    assert privleak(0.5, 0.5) == (0.0, "")
    value, note = privleak(0.5, 1.0)
    assert value is None
    assert "undefined" in note
    assert privleak(None, 0.5)[0] is None


def test_privleak_of_the_retain_model_is_zero() -> None:
    samples = [asked(0), asked(1, split="holdout")]
    rows = run(
        "privleak",
        samples,
        {"target": {"member_min_k_40": [0.0, -1.0]}, "retain_model": {"member_min_k_40": [-1.0, -1.0]}},
    )
    assert values(rows, "target") == {"": -100.0}
    assert values(rows, "retain_model") == {"": 0.0}


def test_facts_are_paired_across_modalities() -> None:
    samples = [
        asked(n, profile_id=f"p{n // 2}", modality=("image_text", "text")[n % 2]) for n in range(8)
    ] + [asked(9, profile_id="lonely")]  # fmt: skip
    right: list[float | None] = [1, 1, 1, 0, 0, 0, 0, None, 1]
    rouge: list[float | None] = [1, 1, 1, 0, 0.5, 0.5, 0, 0, 1]
    rows = run("both_ways", samples, {"target": {"right": right, "rougeL": rouge}})
    got = values(rows, "target", split="forget")
    # facts: both, face only, neither; the fourth has an unjudged reply and the last one only one modality
    assert (got["acc_r"], got["face_only"], got["acc_f"], got["name_only"]) == (1 / 3, 1 / 3, 1 / 3, 0)
    assert got["leak"] == 1 / 3
    # (2/2 + 1 + 0.5 + 0) / 4 and (1 + 0 + 0.5 + 0) / 4
    assert (got["rl_f"], got["rl_r"]) == (0.625, 0.375)


def test_facts_of_unknown_attribute_are_told_apart_by_their_value() -> None:
    """One person's dog is told in both modalities, the club in text alone, the car in one of two wordings of each."""
    things = [("Rex", 2, [1, 1]), ("Chess Club", 2, [0, 1]), ("Volvo", 4, [1, 0, 0, 1])]
    samples, right = [], list[float | None]()
    for thing, number, told in things:
        samples += [
            asked(len(samples) + n, profile_id="p", attribute="other", modality=("image_text", "text")[n % 2],
                  value=thing.upper() if n % 2 else thing)
            for n in range(number)
        ]  # fmt: skip
        right += told
    got = values(run("both_ways", samples, {"target": {"right": right}}), "target", split="forget")
    assert (got["acc_r"], got["face_only"], got["name_only"], got["acc_f"]) == (1 / 3, 0, 1 / 3, 1 / 3)
    rows = run("ape", samples, {"target": {"keyword_match": right}})
    assert values(rows, "target", modality="text") == {"mean": pytest.approx(2.5 / 3), "worst": 1.0}
    assert values(rows, "target", modality="image_text") == {"mean": 0.5, "worst": pytest.approx(2 / 3)}
    assert len({unit_of(sample, few=True) for sample in samples}) == 3


def test_the_four_cases_add_up_to_one_and_nothing_gives_nothing() -> None:
    found = shares([(True, True), (False, True), (False, False), (True, False), (True, False)])
    assert sum(found[name] for name in ("acc_f", "acc_r", "face_only", "name_only")) == pytest.approx(1)
    assert found["leak"] == pytest.approx(0.2)
    assert (shares([]), overlap([])) == ({}, {})


def test_attributes_are_counted_apart() -> None:
    samples = [asked(0, attribute="salary"), asked(1, attribute="salary"), asked(2, attribute="job")]
    rows = run("by_attribute", samples, {"target": {"right": [1, 0, 1]}})
    assert values(rows, "target") == {"salary": 0.5, "job": 1.0}


def test_ape_averages_over_the_wordings_of_a_fact_and_knows_the_worst() -> None:
    samples = [asked(0, profile_id="a"), asked(1, profile_id="a", split="test"), asked(2, profile_id="b")]
    rows = run("ape", samples, {"target": {"keyword_match": [0.0, 1.0, 0.5]}})
    assert values(rows, "target") == {"mean": 0.5, "worst": 0.75}


def test_diversity_sees_a_model_that_always_says_the_same() -> None:
    assert distinct(["a b a", "a b"]) == {"distinct_1": 0.4, "distinct_2": 2 / 3, "distinct_3": 1.0, "replies": 1.0}
    samples = [asked(n) for n in range(4)]
    texts = {"same": ["He lives in Riga."] * 4, "free": ["In Riga.", "A nurse.", "Oslo", "hiking"]}
    rows = run("diversity", samples, {"same": {"right": [0] * 4}, "free": {"right": [0] * 4}}, texts=texts)
    assert values(rows, "same")["replies"] == 0.25
    assert values(rows, "free")["replies"] == 1.0


def test_model_utility_is_zero_if_one_part_is() -> None:
    assert harmonic_mean([1.0, 0.5]) == pytest.approx(2 / 3)
    assert harmonic_mean([1.0, 0.0]) == 0.0
    samples = [asked(0, split="retain"), asked(1, split="celebrity")]
    parts: Numbers = {
        "probability": [0.5, 0.0],  # that of celebrities does not count, and the normalised one of others neither
        "normalised_probability": [0.0, 0.5],
        "rougeL_recall": [0.5, 0.5],
        "truth_ratio": [0.5, 0.5],
    }
    rows = run("model_utility", samples, {"x": parts, "lost": parts | {"rougeL_recall": [0.5, 0.0]}, "mute": parts | {"normalised_probability": [0.5, None]}})  # fmt: skip  # noqa: E501
    assert values(rows, "x") == {"": pytest.approx(0.5)}  # truth ratio 1 - 0.5
    assert values(rows, "lost") == {"": 0.0}
    assert values(rows, "mute") == {"": None}


def test_distance_to_the_retain_model_is_clipped_and_flags_what_lies_beyond() -> None:
    assert closeness(0.3, 0.9, 0.3) == (1.0, "")
    assert closeness(0.9, 0.9, 0.3) == (0.0, "")
    assert closeness(0.0, 0.9, 0.3) == (pytest.approx(0.5), "beyond")
    assert closeness(1.5, 0.9, 0.3) == (0.0, "")
    assert closeness(0.5, 0.31, 0.3) == (None, "target and retain_model are alike")


ALIKE = (None, "target and retain_model are alike")


def test_what_is_alike_depends_on_the_range_of_the_numbers() -> None:
    # 2 % of the range 1 to 10 is 0.18
    assert closeness(5.1, 5.15, 5.0, (1.0, 10.0)) == ALIKE
    assert closeness(5.1, 5.2, 5.0, (1.0, 10.0)) == (pytest.approx(0.5), "")
    # without two ends: 2 % of the larger number, whatever its sign and its unit
    for limits in ((None, 0.0), (-math.inf, 0.0), (None, None)):
        assert closeness(-0.010, -0.004, -0.020, limits) == (pytest.approx(0.375), "")
        assert closeness(-4.0, -4.03, -4.0, limits) == ALIKE, "0.03 of 4.03 nats"
        assert closeness(-4.0, -4.2, -4.0, limits) == (1.0, "")
    assert closeness(150.0, 1.0, 101.0, (1.0, math.inf)) == (pytest.approx(0.51), "beyond")
    assert closeness(0.0, 0.0, 0.0, (None, None)) == ALIKE


def test_the_distance_of_a_likelihood_is_measured_on_its_own_scale() -> None:
    numbers = {"member_zlib": (-0.004, -0.02, -0.010), "exposure": (-1.0, -1.01, -1.0), "right": (0.5, 0.51, 0.5)}
    results = [
        MetricResult(
            model=model, metric=metric, split="forget", task="cloze", modality="text", value=value, ci_low=None,
            ci_high=None, num=4, num_unparsed=0, num_profiles=2,
        )
        for metric, values in numbers.items()
        for model, value in zip(("target", "retain_model", "ga"), values, strict=True)
    ]  # fmt: skip
    rows = run("oracle_distance", [asked(0)], {"ga": {"right": [1.0]}}, results=results)
    found = {row.detail.split()[0]: row.value for row in rows}
    assert found == {"member_zlib": pytest.approx(0.375), "exposure": None, "right": None}


def test_distance_is_given_for_every_metric_of_every_unlearned_model() -> None:
    def result(model: str, value: float) -> MetricResult:
        return MetricResult(
            model=model, metric="right", split="forget", task="cloze", modality="text", value=value, ci_low=None,
            ci_high=None, num=4, num_unparsed=0, num_profiles=2,
        )  # fmt: skip

    results = [result("target", 0.9), result("retain_model", 0.3), result("ga", 0.6)]
    rows = run("oracle_distance", [asked(0)], {"ga": {"right": [1.0]}}, results=results)
    assert [(row.model, row.detail, row.value, row.num) for row in rows] == [
        ("ga", "right cloze", pytest.approx(0.5), 4)
    ]


def rows_of(summary: str, *details: str, **where: str) -> list[Summary]:
    return [
        Summary.model_validate({"model": "x", "summary": summary, "detail": d, "value": 0.5, **where}) for d in details
    ]


def heads(name: str, rows: list[Summary]) -> dict[str, list[str]]:
    """Headings of the columns by title of the table."""
    made: Summariser = plugins.build("summaries", name, {})
    return {table.title: [column.head for column in table.columns] for table in made.tables(rows)}


def test_summaries_share_one_table_in_a_fixed_order() -> None:
    found = [table for summary in build_all(["all"]) for table in summary.tables([]) if table.title == OVERVIEW]
    order = [column.summary for table in sorted(found, key=lambda t: t.order) for column in table.columns]
    assert list(dict.fromkeys(order)) == ["model_utility", "forget_quality", "privleak", "ape", "diversity"]
    assert all(table.by_modality for table in found)


def test_columns_are_made_from_what_was_found() -> None:
    kinds = rows_of("by_attribute", "birth_date", "job", split="forget", modality="text")
    distances = rows_of("oracle_distance", "bleu generation", "right cloze", split="forget", modality="text")
    every = [*kinds, *distances, *rows_of("by_attribute", "pet", split="retain", modality="text")]
    assert heads("by_attribute", every) == {"Which facts stay known": ["birth date", "job"]}
    assert heads("oracle_distance", every)["How near, metric by metric, on forget"] == ["right", "bleu"]


def test_the_median_over_all_metrics_has_a_column_for_every_set_and_modality() -> None:
    made: Summariser = plugins.build("summaries", "oracle_distance", {})
    summed, single = made.tables([])
    assert [(c.split, c.modality, c.median) for c in summed.columns] == [
        (split, modality, True) for split in ("forget", "test") for modality in ("image_text", "text")
    ]
    assert (summed.folded, single.folded) == (False, True)


def test_a_summary_without_its_metric_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"evaluate\.summaries: ape reads the metric keyword_match"):
        run("ape", [asked(0)], {"target": {"right": [1.0]}})


def test_summaries_bring_the_metrics_they_read_and_what_those_measure() -> None:
    plain = metrics_of(Evaluate())
    assert not any(measured(plain, TASKS).values())
    more = metrics_of(Evaluate(summaries=("membership", "ape"), extra_metrics=("exposure",)))
    assert {m.name for m in more} - {m.name for m in plain} == {*MEMBER, "keyword_match", "exposure"}
    assert measured(more, TASKS) == {
        "classification": (),
        "generation": ("gradient", "tokens"),
        "cloze": ("gradient", "tokens"),
    }


def test_all_means_every_summary() -> None:
    assert [s.name for s in build_all(("all", "ape"))] == plugins.names("summaries")


@pytest.mark.parametrize("name", plugins.names("summaries"))
def test_every_summary_reads_metrics_that_exist_and_says_where_it_comes_from(name: str) -> None:
    cls = plugins.find("summaries", name)
    assert set(cls.needs) <= set(plugins.names("metrics"))
    assert cls.source.startswith("https://") or cls.source == "ours"
    assert not math.isnan(len(cls.summary()))
