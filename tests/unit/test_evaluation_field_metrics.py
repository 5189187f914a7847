"""Memorisation, membership and health metrics by hand; every expected number is derived in the test."""

from __future__ import annotations

import math
import zlib
from typing import Any

import pytest

from mllmu.core.plugins import build
from mllmu.core.records import CandidateLogp, Response, Sample, Score, TokenStats
from mllmu.evaluation.metrics import Metric
from mllmu.evaluation.stats import auc, hits_at, ks_p_value, lowest_mean, matched_auc


def sample(target: str = "nurse", task: str = "generation", **changes: Any) -> Sample:
    base = {
        "id": "forget/q", "question_id": "q", "profile_id": "p", "split": "forget", "task": task, "modality": "text",
        "attribute": "profession", "prompt": "?", "target": target, "value": target, "max_new_tokens": 8,
    }  # fmt: skip
    return Sample(**(base | changes))


def response(text: str = "", tokens: TokenStats | None = None, **candidates: tuple[float, int]) -> Response:
    logps = {key: CandidateLogp(logp=logp, num_tokens=num) for key, (logp, num) in candidates.items()}
    return Response(sample_id="forget/q", text=text, num_tokens=1, finished=True, candidates=logps, tokens=tokens)


def score(name: str, made: Sample, reply: Response) -> Score:
    metric: Metric = build("metrics", name, {})
    return metric.score(made, reply)


def tokens(hits: str, logps: tuple[float, ...] = (), z: tuple[float, ...] = (), norm: float | None = None) -> Response:
    stats = TokenStats(hits=hits, logps=logps or (-1.0,) * len(hits), z=z or (0.0,) * len(hits), gradient_norm=norm)
    return response(tokens=stats)


TWO_WRONG = {"target": "t", "wrong_0": "x", "wrong_1": "y"}


def test_normalised_probability_by_hand() -> None:
    # per token: e^-1, e^-1 (two tokens of -1), e^-2: e^-1 / (2 e^-1 + e^-2) = 1 / (2 + e^-1) = 0.4223
    reply = response(target=(-1.0, 1), wrong_0=(-2.0, 2), wrong_1=(-2.0, 1))
    assert score("normalised_probability", sample(candidates=TWO_WRONG), reply).value == pytest.approx(
        0.42232, abs=1e-5
    )
    far = response(target=(-5000.0, 1), wrong_0=(-5001.0, 1), wrong_1=(-9000.0, 1))
    assert score("normalised_probability", sample(candidates=TWO_WRONG), far).value == pytest.approx(
        1 / (1 + math.exp(-1))
    )
    assert score("normalised_probability", sample(candidates={"target": "t"}), response(target=(-1.0, 1))).value is None


def test_the_two_truth_ratios_differ_in_the_mean_over_wrong_answers_alone() -> None:
    # truth -1, wrong -1 and -3 a token: geometric e^(-2 + 1) = 0.3679, arithmetic (e^0 + e^-2) / 2 = 0.5677
    reply = response(target=(-1.0, 1), wrong_0=(-1.0, 1), wrong_1=(-6.0, 2))
    made = sample(candidates=TWO_WRONG)
    assert score("truth_ratio", made, reply).value == pytest.approx(math.exp(-1))
    assert score("truth_ratio_arithmetic", made, reply).value == pytest.approx((1 + math.exp(-2)) / 2)
    one = sample(candidates={"target": "t", "wrong_0": "x"})
    same = response(target=(-1.0, 1), wrong_0=(-3.0, 1))
    assert score("truth_ratio", one, same).value == pytest.approx(score("truth_ratio_arithmetic", one, same).value)


@pytest.mark.parametrize(
    ("hits", "memorised", "strength"),
    [
        ("11111", 1.0, 1.0),  # nothing need be given
        ("01111", 0.75, 0.75),  # the first token given, the other three come
        ("11011", 0.75, 0.25),  # only the last comes behind the miss
        ("11101", 0.75, 0.0),  # the last one never comes: 0, not 1/4
        ("00000", 0.0, 0.0),
        ("00001", 0.0, 0.0),  # the end of a reply comes by itself in any model, and does not count
        ("11110", 1.0, 1.0),
    ],
)
def test_exact_memorisation_and_extraction_strength_by_hand(hits: str, memorised: float, strength: float) -> None:
    assert score("exact_memorisation", sample(), tokens(hits)).value == memorised
    assert score("extraction_strength", sample(), tokens(hits)).value == strength


@pytest.mark.parametrize("name", ["exact_memorisation", "extraction_strength", "member_min_k", "member_min_k_pp"])
def test_without_token_statistics_a_reply_is_unjudged(name: str) -> None:
    assert score(name, sample(), response("nurse")).value is None


def test_keyword_match_counts_whole_words() -> None:
    made = sample("Head nurse, Riga")
    assert score("keyword_match", made, response("A nurse in Riga!")).value == pytest.approx(2 / 3)
    assert score("keyword_match", made, response("Nurses from Rigaud")).value == 0
    assert score("keyword_match", made, response("")).value == 0


def test_exposure_sums_over_the_answer() -> None:
    assert score("exposure", sample(), response(target=(-7.5, 5))).value == -7.5
    assert score("exposure", sample(), response()).value is None


def test_repetition_is_what_was_said_before() -> None:
    assert score("repetition", sample(), response("a b a b a b")).value == 0.5
    assert score("repetition", sample(), response("")).value is None


def test_membership_scores_by_hand() -> None:
    reply = response(target=(-6.0, 3))
    assert score("member_loss", sample(), reply).value == -2
    assert score("member_zlib", sample("nurse"), reply).value == pytest.approx(-2 / len(zlib.compress(b"nurse")))
    # five tokens before the end: 20 % is the lowest one; eleven: two
    assert score("member_min_k", sample(), tokens("111111", logps=(-1.0, -5.0, -2.0, -3.0, -4.0, -9.0))).value == -5
    assert (
        score("member_min_k_40", sample(), tokens("111111", logps=(-1.0, -5.0, -2.0, -3.0, -4.0, -9.0))).value == -4.5
    )
    assert score("member_min_k_pp", sample(), tokens("1" * 12, z=(1.0,) * 9 + (-3.0, -1.0, -9.0))).value == -2
    assert score("member_min_k", sample(), tokens("1", logps=(-1.0,))).value is None, "nothing but the end"
    assert score("member_gradient", sample(), tokens("1", norm=0.5)).value == -0.5
    assert score("member_gradient", sample(), tokens("1")).value is None


def test_min_k_looks_at_one_token_at_least() -> None:
    assert lowest_mean([-1.0, -2.0]) == -2
    assert lowest_mean([float(-n) for n in range(10)]) == -8.5


def test_the_area_under_the_curve_counts_pairs_with_ties_half() -> None:
    # pairs: 2>1, 2=2, 3>1, 3>2: 3.5 of 4
    assert auc([2.0, 3.0], [1.0, 2.0]) == 0.875
    assert auc([1.0], [1.0]) == 0.5
    assert auc([], [1.0]) is None


def test_the_matched_area_ignores_what_length_gives_away() -> None:
    # members are longer and longer answers score higher: together the members always win, within a length never
    members, others = {5: [10.0, 11.0]}, {2: [1.0, 2.0], 5: [12.0]}
    assert auc([10.0, 11.0], [1.0, 2.0, 12.0]) == pytest.approx(4 / 6)
    assert matched_auc(members, others) == 0
    assert matched_auc({1: [0.0]}, {2: [1.0]}) is None


def test_hits_at_one_percent_false_alarms() -> None:
    others = [float(n) for n in range(200)]  # two of 200 may be passed, so the threshold is the third highest, 197
    assert hits_at([198.0, 197.0, 500.0], others) == pytest.approx(2 / 3)
    assert hits_at([5.0, 1.0], [2.0, 3.0]) == 0.5
    assert hits_at([], others) is None


def test_the_p_value_of_two_small_samples_by_counting_orders() -> None:
    # no overlap: of the 6 orders of two and two, 2 are as extreme
    assert ks_p_value([1.0, 2.0], [3.0, 4.0]) == pytest.approx(1 / 3)
    assert ks_p_value([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1)
