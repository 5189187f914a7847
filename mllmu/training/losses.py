"""The losses that several methods share, as pure functions of logits and log-probabilities.

A loss that one method alone uses stands in the file of that method.

Shapes: B rows (one reply each), N labelled tokens of all rows together, V vocabulary. Log-probabilities and
divergences are in nats. Prompt, image and padding tokens are never among the N tokens (unless a method asks for
``loss_on: all``, which labels the prompt too), so no loss here needs a mask.
"""

from torch import Tensor
from torch.nn import functional as F

from mllmu.core.errors import ModelError
from mllmu.models.engine.forward import Forward, check_labelled

LN2 = 0.6931471805599453


def answer_nll(forward: Forward) -> Tensor:
    """Negative log-likelihood of the replies; lower means the model says them more readily.

    L = -(1/N) * sum_N log p(token | everything before it)

    The mean is over all labelled tokens of the batch, as in the paper and in the usual cross-entropy: a long reply
    weighs more than a short one. It is *not* the mean over rows of each row's mean.

    Args:
        forward: one pass; ``token_logp_N`` [N] in nats.

    Returns:
        Scalar in nats per token, >= 0. A reply of one token with p = 1/2 and one of three tokens with p = 1/4 each
        give (ln 2 + 3 * 2 ln 2) / 4 = 1.75 ln 2 = 1.213 (the mean of row means would be 1.5 ln 2).

    Raises:
        DataError: the batch has no labelled token.

    Source: MLLMU-Bench, arXiv:2410.22108, the loss l of all its objectives.
    """
    check_labelled(forward.labels_N)
    return -forward.token_logp_N.mean()


def dpo_loss(
    wanted_B: Tensor, wanted_reference_B: Tensor, unwanted_B: Tensor, unwanted_reference_B: Tensor, *, beta: float
) -> Tensor:
    """Direct preference optimisation; lower means the wanted reply has gained more on the unwanted one.

    L = (2 / beta) * mean_B[ softplus(-beta * ((wanted - wanted_ref) - (unwanted - unwanted_ref))) ]

    Args:
        wanted_B, unwanted_B: [B] log p(reply | question) of the trained model in nats, summed over the reply's tokens.
        wanted_reference_B, unwanted_reference_B: [B] the same under the frozen reference; no gradient flows into them.
        beta: inverse temperature in 1/nat, > 0.

    Returns:
        Scalar in nats, > 0; 2 ln(2) / beta at the reference. The factor 2 / beta is that of the negative part alone
        (:func:`mllmu.unlearning.methods.npo.npo_loss`), so that their values compare. Gains of 1 and -1 nat with
        beta 0.5 give 4 * ln(1 + 1/e) = 1.253.

    Source: Rafailov et al. 2023, arXiv:2305.18290; for unlearning arXiv:2401.06121.
    """
    gain_B = (wanted_B - wanted_reference_B.detach()) - (unwanted_B - unwanted_reference_B.detach())
    return F.softplus(-beta * gain_B).mean() * (2 / beta)


def weighted_ascent(forward: Forward, *, known: float, unknown: float = 0.0) -> Tensor:
    """Gradient ascent with a weight for each token; lower means the replies are less likely.

    L = -mean_N[ p^known * (1 - p)^unknown * -log p ],  p = p(token), constant in the weight

    Args:
        forward: one pass over the forget replies; the mean is over all their tokens.
        known: exponent >= 0; larger leaves tokens alone that are already unlikely.
        unknown: exponent >= 0; larger leaves tokens alone that are still certain.

    Returns:
        Scalar in nats per token, <= 0. Tokens with p = 1/2 and 1/4, known 1 and unknown 0, give
        -(ln 2 / 2 + 2 ln 2 / 4) / 2 = -ln(2) / 2 = -0.347. Both exponents 0 is plain gradient ascent.

    Source: WGA, arXiv:2502.19301 (known); SatImp, arXiv:2505.11953 (both).
    """
    check_labelled(forward.labels_N)
    p_N = forward.token_logp_N.detach().exp()
    weight_N = p_N**known * (1 - p_N).clamp(min=0) ** unknown
    return (weight_N * forward.token_logp_N).mean()


def kl_to_reference(current_logits_NV: Tensor, reference_logits_NV: Tensor) -> Tensor:
    """How far the model has moved from the reference; lower means it still predicts the same words.

    L = (1/N) * sum_N sum_V p_ref * (log p_ref - log p_current), that is KL(reference || current)

    Args:
        current_logits_NV: [N, V] finite logits of the trained model at the labelled tokens.
        reference_logits_NV: [N, V] the same tokens under the frozen reference; no gradient flows into it.

    Returns:
        Scalar in nats per token, >= 0; summed over the vocabulary, averaged over the labelled tokens of the batch.
        0 where both agree. Reference (1/2, 1/2) and current (3/4, 1/4) give ln(4/3) / 2 = 0.144; the reverse
        direction would give 0.131.

    Raises:
        DataError: there is no token.
        ModelError: the two do not have the same shape.

    Source: the KL minimisation baseline of TOFU, arXiv:2401.06121.
    """
    return _kl_sum(current_logits_NV, reference_logits_NV) / len(current_logits_NV)


def kl_batchmean_published(current_logits_NV: Tensor, reference_logits_NV: Tensor, *, num_rows: int) -> Tensor:
    """The same divergence in the reduction of the published code: summed over positions, divided by rows.

    L = (1/B) * sum_N sum_V p_ref * (log p_ref - log p_current)

    The published code reduces [B, T, V] tensors with 'batchmean', which divides by B alone. The loss therefore grows
    with the length of the replies, about N/B times :func:`kl_to_reference`. The published sum also runs over padding;
    padding never enters here, so the value does not depend on how a batch was padded.

    Args:
        current_logits_NV: [N, V] finite logits of the trained model at the labelled tokens.
        reference_logits_NV: [N, V] the same tokens under the frozen reference; no gradient flows into it.
        num_rows: B, >= 1.

    Returns:
        Scalar in nats per row, >= 0. Two tokens of one row, each as in :func:`kl_to_reference`, give ln(4/3) = 0.288.

    Raises:
        DataError: there is no token.
        ModelError: the two do not have the same shape.

    Source: released code of MLLMU-Bench, arXiv:2410.22108.
    """
    return _kl_sum(current_logits_NV, reference_logits_NV) / num_rows


def _kl_sum(current_logits_NV: Tensor, reference_logits_NV: Tensor) -> Tensor:
    """KL(reference || current) summed over tokens and vocabulary."""
    if current_logits_NV.shape != reference_logits_NV.shape:
        raise ModelError(
            f"KL: current logits {list(current_logits_NV.shape)} and reference logits "
            f"{list(reference_logits_NV.shape)} differ in shape. Expected the same tokens and vocabulary: "
            "use a reference made from the same base model."
        )
    check_labelled(current_logits_NV)
    reference_logp_NV = reference_logits_NV.detach().log_softmax(-1)
    return F.kl_div(current_logits_NV.log_softmax(-1), reference_logp_NV, reduction="sum", log_target=True)
