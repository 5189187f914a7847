"""Losses against numbers worked by hand, their limits, and what must not change them."""

from __future__ import annotations

import math
from operator import attrgetter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mllmu.core.errors import DataError, ModelError
from mllmu.models.engine.forward import Forward, run_forward
from mllmu.models.families import IGNORE, Batch
from mllmu.models.labels import label_everything
from mllmu.training.losses import answer_nll, kl_batchmean_published, kl_to_reference
from mllmu.unlearning.methods.npo import npo_loss

LN2 = math.log(2)
PAD, IMAGE = 0, 9


def two_replies() -> Forward:
    """Row 0: one token with p = 1/2. Row 1: three tokens with p = 1/4 each."""
    half = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    return Forward(
        torch.cat([half, torch.zeros(3, 4)]), torch.zeros(4, dtype=torch.long), torch.tensor([0, 1, 1, 1]), 2
    )


def empty() -> Forward:
    return Forward(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2)


def test_answer_nll_is_the_mean_over_all_tokens_not_over_rows() -> None:
    # tokens: (ln 2 + 3 * 2 ln 2) / 4 = 1.75 ln 2; rows would give (ln 2 + 2 ln 2) / 2 = 1.5 ln 2
    assert answer_nll(two_replies()).item() == pytest.approx(1.75 * LN2)


def test_row_nll_sums_over_the_tokens_of_each_reply() -> None:
    assert two_replies().row_logp_B.tolist() == pytest.approx([-LN2, -6 * LN2])


@pytest.mark.parametrize("loss", [answer_nll, attrgetter("row_logp_B")])
def test_a_batch_without_labels_is_an_error_instead_of_nan(loss: Any) -> None:
    with pytest.raises(DataError, match=r"without a single labelled token.*empty answers"):
        loss(empty())


@pytest.mark.parametrize("beta", [0.1, 0.4, 3.0])
def test_npo_is_two_ln_two_over_beta_where_policy_equals_reference(beta: float) -> None:
    logp = torch.tensor([-7.0, -0.5])
    assert npo_loss(logp, logp, beta=beta).item() == pytest.approx(2 * LN2 / beta)


def test_npo_value_by_hand() -> None:
    # 0.5 * (-1 - -3) = 1, softplus(1) = ln(1 + e) = 1.313262, times 2 / 0.5
    assert npo_loss(torch.tensor([-1.0]), torch.tensor([-3.0]), beta=0.5).item() == pytest.approx(5.253047, abs=1e-5)


def test_npo_averages_over_replies() -> None:
    # ratios 0 and -2 at beta 1: 2 * (ln 2 + ln(1 + e^-2)) / 2 = 0.693147 + 0.126928
    value = npo_loss(torch.tensor([-1.0, -5.0]), torch.tensor([-1.0, -3.0]), beta=1.0)
    assert value.item() == pytest.approx(0.820075, abs=1e-5)


def test_npo_gradient_tends_to_gradient_ascents_as_beta_goes_to_zero() -> None:
    policy = torch.tensor([-1.0, -9.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(npo_loss(policy, torch.tensor([-3.0, -2.0]), beta=1e-5), policy)
    assert gradient.tolist() == pytest.approx([0.5, 0.5], abs=1e-4)  # of mean_B[policy]


def test_npo_gradient_fades_for_a_reply_that_is_already_forgotten() -> None:
    policy = torch.tensor([-20.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(npo_loss(policy, torch.tensor([-2.0]), beta=0.4), policy)
    assert gradient.item() == pytest.approx(2 / (1 + math.exp(0.4 * 18)), rel=1e-4)


def test_no_gradient_flows_into_the_reference() -> None:
    current, reference = torch.zeros(1, 3, requires_grad=True), torch.ones(1, 3, requires_grad=True)
    total = npo_loss(current[:, 0], reference[:, 0], beta=1.0) + kl_to_reference(current, reference)
    torch.autograd.backward(total)
    assert current.grad is not None
    assert reference.grad is None


def test_kl_of_a_model_with_itself_is_zero_even_when_logits_are_shifted() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.5], [3.0, 3.0, -8.0]])
    assert kl_to_reference(logits + 4, logits).item() == pytest.approx(0, abs=1e-6)


def one_differs() -> tuple[Tensor, Tensor]:
    """Two tokens: the first is (3/4, 1/4) against the reference's (1/2, 1/2), the second agrees."""
    return torch.tensor([[0.75, 0.25], [0.5, 0.5]]).log(), torch.zeros(2, 2)


def test_kl_takes_the_expectation_under_the_reference_and_averages_over_tokens() -> None:
    # 1/2 ln(2/3) + 1/2 ln 2 = ln(4/3) / 2 = 0.143841 for the first token; the reverse would be 0.130812
    current, reference = one_differs()
    assert kl_to_reference(current[:1], reference[:1]).item() == pytest.approx(0.143841, abs=1e-6)
    assert kl_to_reference(current, reference).item() == pytest.approx(0.143841 / 2, abs=1e-6)


def test_published_kl_sums_over_positions_and_divides_by_rows() -> None:
    current, reference = one_differs()
    twice = torch.cat([current, current]), torch.cat([reference, reference])
    assert kl_batchmean_published(*twice, num_rows=1).item() == pytest.approx(2 * 0.143841, abs=1e-6)
    assert kl_batchmean_published(*twice, num_rows=2).item() == pytest.approx(0.143841, abs=1e-6)


def test_kl_refuses_models_with_different_vocabularies() -> None:
    with pytest.raises(ModelError, match=r"\[2, 3\].*\[2, 4\].*same base model"):
        kl_to_reference(torch.zeros(2, 3), torch.zeros(2, 4))


def test_kl_of_no_token_is_an_error_instead_of_nan() -> None:
    with pytest.raises(DataError, match="labelled token"):
        kl_to_reference(torch.zeros(0, 3), torch.zeros(0, 3))


class OneLayer(nn.Module):
    """A causal model of one layer: each position sees the mean of the visible, non-image tokens up to itself."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Parameter(torch.randn(10, 6, generator=generator))
        self.lm_head = nn.Linear(6, 10, bias=False)
        self.lm_head.weight.data = torch.randn(10, 6, generator=generator)

    def model(self, *, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        seen_BT1 = (attention_mask * (input_ids != IMAGE)).unsqueeze(-1)
        total_BTD = (self.embed[input_ids] * seen_BT1).cumsum(1)
        return SimpleNamespace(last_hidden_state=total_BTD / seen_BT1.cumsum(1).clamp(min=1))


Row = tuple[list[int], list[int]]
ROWS: list[Row] = [([1, 2, 3], [4, 5, 6]), ([1, 7], [8])]


def encoded(rows: list[Row], *, width: int = 6, left: bool = False) -> Batch:
    """Prompt and reply tokens to a padded batch, labels on the reply."""
    ids, mask, labels = [], [], []
    for prompt, reply in rows:
        pad = width - len(prompt) - len(reply)
        before, after = (pad, 0) if left else (0, pad)
        ids.append([PAD] * before + prompt + reply + [PAD] * after)
        mask.append([0] * before + [1] * (width - pad) + [0] * after)
        labels.append([IGNORE] * (before + len(prompt)) + reply + [IGNORE] * after)
    return Batch(
        inputs={"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}, labels=torch.tensor(labels)
    )


def all_losses(current: Forward, reference: Forward) -> list[float]:
    """Every loss of the module, on one batch."""
    logits = current.logits_NV, reference.logits_NV
    losses = [
        answer_nll(current),
        npo_loss(current.row_logp_B, reference.row_logp_B, beta=0.4),
        kl_to_reference(*logits),
        kl_batchmean_published(*logits, num_rows=current.num_rows),
    ]
    return [loss.item() for loss in losses]


def losses_of(batch: Batch) -> list[float]:
    current, reference = OneLayer(), OneLayer()
    reference.embed.data = reference.embed.data.flip(0)
    return all_losses(run_forward(current, batch), run_forward(reference, batch))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(encoded(ROWS, width=11), id="more padding on the right"),
        pytest.param(encoded(ROWS, width=11, left=True), id="padding on the left"),
        pytest.param(encoded([([IMAGE] * 4 + p, r) for p, r in ROWS], width=10), id="image tokens"),
        pytest.param(encoded(ROWS[::-1]), id="batch order"),
    ],
)
def test_losses_do_not_change_with(changed: Batch) -> None:
    assert losses_of(changed) == pytest.approx(losses_of(encoded(ROWS)), rel=1e-5)


def test_losses_do_change_with_the_reply() -> None:
    other = losses_of(encoded([([1, 2, 3], [4, 7, 6]), ROWS[1]]))
    assert all(abs(a - b) > 1e-3 for a, b in zip(other, losses_of(encoded(ROWS)), strict=True))


def test_rows_are_scored_as_if_each_were_alone() -> None:
    model = OneLayer()
    together = run_forward(model, encoded(ROWS)).row_logp_B.tolist()
    alone = [run_forward(model, encoded([row])).row_logp_B.item() for row in ROWS]
    assert together == pytest.approx(alone, rel=1e-5)


def test_labelling_everything_adds_the_prompt_but_no_padding_and_no_image() -> None:
    batch = encoded([([IMAGE, 1, 2], [3]), ([1], [3])])
    labels = label_everything(batch, image_token_id=IMAGE).labels
    assert labels.tolist() == [[IGNORE, 1, 2, 3, IGNORE, IGNORE], [1, 3, IGNORE, IGNORE, IGNORE, IGNORE]]
