"""The losses of the field's methods, each against a number worked out by hand."""

from __future__ import annotations

from math import e, exp, log, tanh

import pytest
import torch
from torch import Tensor

from mllmu.core.errors import DataError
from mllmu.models.engine.forward import Forward
from mllmu.training.losses import dpo_loss, weighted_ascent
from mllmu.unlearning.methods.ce_u import ce_u_loss, index_in_row_N
from mllmu.unlearning.methods.flat import Divergence, flat_loss, mean_probability_B
from mllmu.unlearning.methods.holdout_match import distances_B
from mllmu.unlearning.methods.jensun import js_to_reference, js_to_token
from mllmu.unlearning.methods.npo import npo_loss
from mllmu.unlearning.methods.pdu import flattening_loss
from mllmu.unlearning.methods.simnpo import simnpo_loss
from mllmu.unlearning.methods.undial import undial_loss

LN2 = log(2)


def forward(p: list[float], rows: list[int]) -> Forward:
    """Tokens of given probability, always word 0 of two."""
    p_N = torch.tensor(p)
    logits = torch.stack([p_N.log(), (1 - p_N).log()], dim=1).requires_grad_()
    return Forward(logits, torch.zeros(len(p), dtype=torch.long), torch.tensor(rows), max(rows) + 1)


def grad(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss, of)[0]


def test_dpo_compares_the_gains_of_both_replies() -> None:
    wanted, unwanted = torch.tensor([-2.0]), torch.tensor([-6.0])
    loss = dpo_loss(wanted, wanted - 1, unwanted, unwanted + 1, beta=0.5)
    # gains 1 and -1: softplus(-0.5 * 2) = ln(1 + 1/e), times 2 / 0.5
    assert loss.item() == pytest.approx(4 * log(1 + 1 / e))
    assert dpo_loss(wanted, wanted, unwanted, unwanted, beta=0.5).item() == pytest.approx(4 * LN2)


def test_dpo_without_a_wanted_gain_is_npo() -> None:
    zero, unwanted, known = torch.zeros(2), torch.tensor([-1.0, -5.0]), torch.tensor([-2.0, -2.5])
    assert dpo_loss(zero, zero, unwanted, known, beta=0.3).item() == pytest.approx(
        npo_loss(unwanted, known, beta=0.3).item()
    )


def test_dpo_gives_the_references_no_gradient() -> None:
    tensors = [torch.tensor([-float(n)], requires_grad=True) for n in range(1, 5)]
    dpo_loss(*tensors, beta=0.1).backward()
    assert [t.grad is not None for t in tensors] == [True, False, True, False]
    assert tensors[0].grad is not None
    assert tensors[0].grad < 0  # the wanted reply is pulled up


def test_simnpo_averages_within_a_reply_so_length_does_not_count() -> None:
    short, long = forward([0.5], [0]), forward([0.5] * 4, [0] * 4)
    # softplus(-2 ln 2) = ln(1 + 1/4), times 2 / 2
    assert simnpo_loss(short, beta=2, margin=0).item() == pytest.approx(log(1.25))
    assert simnpo_loss(long, beta=2, margin=0).item() == pytest.approx(log(1.25))
    assert simnpo_loss(long, beta=2, margin=LN2).item() == pytest.approx(LN2)


def test_weighted_ascent_weighs_a_token_by_its_probability() -> None:
    both = forward([0.5, 0.25], [0, 0])
    assert weighted_ascent(both, known=1).item() == pytest.approx(-(LN2 / 2 + 2 * LN2 / 4) / 2)
    assert weighted_ascent(both, known=0).item() == pytest.approx(-1.5 * LN2)
    # p^2 (1 - p): 1/8 and 3/64
    expected = -(LN2 / 8 + 2 * LN2 * 3 / 64) / 2
    assert weighted_ascent(both, known=2, unknown=1).item() == pytest.approx(expected)


def test_the_weight_of_weighted_ascent_is_constant() -> None:
    one = forward([0.5], [0])
    # d(log p)/dz = (1 - p, -p), weighted with p = 1/2; a moving weight would add p * log p * (1 - p)
    assert grad(weighted_ascent(one, known=1), one.logits_NV)[0].tolist() == pytest.approx([0.25, -0.25])


def test_weighted_ascent_refuses_a_batch_without_tokens() -> None:
    empty = Forward(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 1)
    with pytest.raises(DataError, match="without a single labelled token"):
        weighted_ascent(empty, known=1)


def test_undial_is_least_where_the_model_equals_the_lowered_reference() -> None:
    reference = torch.tensor([[LN2, 0.0]], requires_grad=True)
    there, elsewhere = forward([0.5], [0]), forward([2 / 3], [0])
    loss = undial_loss(there, reference, strength=LN2)
    assert loss.item() == pytest.approx(LN2)
    assert grad(loss, there.logits_NV).abs().max().item() == pytest.approx(0, abs=1e-6)
    # q = (1/2, 1/2), p = (2/3, 1/3): (ln(3/2) + ln 3) / 2
    value = undial_loss(elsewhere, reference, strength=LN2)
    assert value.item() == pytest.approx((log(1.5) + log(3)) / 2)
    assert torch.autograd.grad(value, reference, allow_unused=True)[0] is None


def test_ce_u_asks_for_what_the_model_would_say_without_the_token() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]])
    one = Forward(p.log().requires_grad_(), torch.tensor([0]), torch.tensor([0]), 1)
    assert ce_u_loss(one, skip=0).item() == pytest.approx(2 * LN2)
    # the gradient of a cross-entropy is p - q, q = (0, 1/2, 1/2) constant
    assert grad(ce_u_loss(one, skip=0), one.logits_NV)[0].tolist() == pytest.approx([0.5, -0.25, -0.25])


def test_ce_u_leaves_the_beginning_of_every_reply_alone() -> None:
    # q is the other word with certainty, so a token costs -ln(1 - p)
    replies = forward([0.9, 0.5, 0.9, 0.75, 0.5], [0, 0, 1, 1, 1])
    expected = (-log(0.5) - log(0.25) - log(0.5)) / 3
    assert ce_u_loss(replies, skip=1).item() == pytest.approx(expected, rel=1e-5)
    # the last token of a reply counts however much is skipped: a letter is one token
    expected = (-log(0.5) - log(0.5)) / 2
    assert ce_u_loss(replies, skip=9).item() == pytest.approx(expected, rel=1e-5)
    assert ce_u_loss(forward([0.75], [0]), skip=1).item() == pytest.approx(-log(0.25), rel=1e-5)


def test_places_are_counted_within_each_reply_in_whatever_order_the_replies_lie() -> None:
    packed = forward([0.5] * 6, [2, 2, 2, 0, 1, 1])
    assert index_in_row_N(packed).tolist() == [0, 1, 2, 0, 0, 1]


def test_flattening_measures_how_far_the_best_word_stands_out() -> None:
    logits = torch.tensor([[3.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    assert flattening_loss(logits).item() == pytest.approx((4 + 0) / 2)
    assert flattening_loss(logits + 7).item() == pytest.approx(2, rel=1e-5)


def test_the_probability_of_a_reply_is_the_mean_over_its_tokens() -> None:
    assert mean_probability_B(forward([0.5, 0.25, 0.9], [0, 0, 1])).tolist() == pytest.approx([0.375, 0.9])


@pytest.mark.parametrize(
    ("divergence", "expected"),
    [
        ("tv", tanh(0.2) / 2 - tanh(0.6) / 2),
        ("kl", exp(0.2 - 1) - 0.6),
        ("js", -log(2 - 2 / (1 + exp(-0.2))) - log(2 / (1 + exp(-0.6)))),
        ("pearson", 0.2**2 / 4 + 0.2 - 0.6),
    ],
)
def test_flat_adds_the_conjugates_of_its_divergence(divergence: Divergence, expected: float) -> None:
    # wanted: 0.5 and 0.7, mean 0.6; unwanted: one token of 0.2; lengths need not agree
    loss = flat_loss(forward([0.5, 0.7], [0, 0]), forward([0.2], [0]), divergence=divergence)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", ["tv", "kl", "js", "pearson"])
def test_flat_falls_as_the_refusal_rises_and_as_the_true_reply_falls(divergence: Divergence) -> None:
    values = [
        flat_loss(forward([wanted], [0]), forward([unwanted], [0]), divergence=divergence).item()
        for wanted, unwanted in ((0.2, 0.8), (0.5, 0.8), (0.5, 0.3))
    ]
    assert values[0] > values[1] > values[2]


def test_jensen_shannon_to_a_token_depends_on_its_probability_alone() -> None:
    assert js_to_token(torch.tensor([0.5]).log()).item() == pytest.approx(0.215762, abs=1e-5)
    assert js_to_token(torch.tensor([1.0]).log()).item() == pytest.approx(0, abs=1e-6)
    assert js_to_token(torch.tensor([1e-30]).log()).item() == pytest.approx(LN2, abs=1e-6)


def test_jensen_shannon_to_a_token_is_that_to_its_one_hot_distribution() -> None:
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 5, 2])
    one_hot = torch.full_like(logits, -1e4).scatter(1, labels[:, None], 0.0)
    logp = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    assert js_to_token(logp).item() == pytest.approx(js_to_reference(logits, one_hot).item(), rel=1e-5)


def test_jensen_shannon_is_zero_at_the_reference_and_never_above_ln_two() -> None:
    sure, even = torch.tensor([[40.0, 0.0]]), torch.tensor([[0.0, 0.0]], requires_grad=True)
    assert js_to_reference(sure, even).item() == pytest.approx(0.215762, abs=1e-5)
    assert js_to_reference(even, even).item() == pytest.approx(0, abs=1e-6)
    assert js_to_reference(sure, -sure).item() == pytest.approx(LN2, abs=1e-5)
    trained = torch.tensor([[1.0, 0.0]], requires_grad=True)
    assert torch.autograd.grad(js_to_reference(trained, even), even, allow_unused=True)[0] is None


def test_distance_is_per_token_squared_near_the_level_and_linear_far_from_it() -> None:
    replies = forward([0.5, 0.125, 0.125], [0, 0, 1])
    assert distances_B(replies, torch.tensor([-3 * LN2])).tolist() == pytest.approx([LN2**2 / 2, 0.0], abs=1e-6)
    own = torch.tensor([-5 * LN2, -2 * LN2], requires_grad=True)
    distance = distances_B(replies, own)
    assert distance.tolist() == pytest.approx([3 * LN2 - 0.5, LN2**2 / 2], abs=1e-6)
    assert torch.autograd.grad(distance.sum(), own, allow_unused=True)[0] is None


def test_a_reply_is_pushed_down_to_its_level_and_pulled_up_to_it() -> None:
    replies = forward([0.9, 0.9, 0.01, 0.01, 0.5], [0, 0, 1, 1, 2])
    gradient = grad(distances_B(replies, torch.tensor([-1.0, -1.0, -LN2])).sum(), replies.logits_NV)
    # the logit of the trained token, word 0: descent lowers it above the level, raises it below, leaves it at the level
    assert gradient[:2, 0].min() > 0
    assert gradient[2:4, 0].max() < 0
    assert not gradient[4].any()
