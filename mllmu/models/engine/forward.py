"""One forward pass over a batch, reduced to what losses need: the logits at the labelled tokens.

Shapes: B rows, N labelled tokens of all rows together, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mllmu.models.engine import meter
from mllmu.models.engine.image_features import embedded
from mllmu.models.families import IGNORE, Batch
from mllmu.models.parts import core, decoder_layers


@dataclass(frozen=True)
class Forward:
    """Logits of the labelled tokens of a batch.

    Attributes:
        logits_NV: float32 logits that predict the labelled tokens.
        labels_N: the labelled tokens.
        row_N: index of the row each token belongs to.
        num_rows: B.
    """

    logits_NV: Tensor
    labels_N: Tensor
    row_N: Tensor
    num_rows: int

    @cached_property
    def token_logp_N(self) -> Tensor:
        """[N] log p(token | everything before it), in nats."""
        return -F.cross_entropy(self.logits_NV, self.labels_N, reduction="none")

    @cached_property
    def row_logp_B(self) -> Tensor:
        """[B] log-probability of each reply: token log-probabilities *summed* over its labelled tokens, in nats."""
        zeros = torch.zeros(self.num_rows, dtype=self.token_logp_N.dtype, device=self.token_logp_N.device)
        return zeros.index_add(0, self.row_N, self.token_logp_N)

    @cached_property
    def row_length_B(self) -> Tensor:
        """[B] number of labelled tokens of each reply."""
        return torch.bincount(self.row_N, minlength=self.num_rows)


def run_forward(model: Any, batch: Batch) -> Forward:
    """Run a model on a batch; the language-model head is applied to labelled positions only.

    Works for any ``...ForConditionalGeneration`` with ``.model`` and ``.lm_head``, with or without adapters.
    """
    num_rows = len(batch.labels) if batch.replies is None else batch.num_replies
    return Forward(run_logits(model, batch), *labelled(batch), num_rows)


def run_logits(model: Any, batch: Batch) -> Tensor:
    """[N, V] float32 logits that predict the labelled tokens."""
    return apply_head(core(model), run_labelled(model, batch)).float()


def run_labelled(model: Any, batch: Batch) -> Tensor:
    """[N, D] hidden states behind the last layer, in the model's precision, that predict the labelled tokens."""
    meter.count(batch)
    hidden_BTD = core(model).model(**arguments(model, batch), use_cache=False).last_hidden_state
    hidden_ND: Tensor = hidden_BTD[:, :-1][batch.labels[:, 1:] != IGNORE]
    return hidden_ND


def arguments(model: Any, batch: Batch) -> dict[str, Any]:
    """The batch as the model takes it: images put in, and masks by the kind of layer where it has several."""
    masks = {"attention_mask": batch.masks} if batch.masks else {}
    return {**embedded(model, batch.inputs), **masks}


def labelled(batch: Batch) -> tuple[Tensor, Tensor]:
    """[N] the labelled tokens of a batch, and [N] the row, or the packed reply, that each belongs to."""
    wanted_BT = batch.labels[:, 1:] != IGNORE
    row_N = wanted_BT.nonzero()[:, 0] if batch.replies is None else batch.replies[:, 1:][wanted_BT]
    return batch.labels[:, 1:][wanted_BT], row_N


def apply_head(own: Any, hidden_ND: Tensor) -> Tensor:
    """[N, V] logits of hidden states; some models bound them: cap * tanh(logits / cap)."""
    logits_NV: Tensor = own.lm_head(hidden_ND)
    cap = getattr(own.config.get_text_config(), "final_logit_softcapping", None) if hasattr(own, "config") else None
    return logits_NV if cap is None else torch.tanh(logits_NV / cap) * cap


def run_hidden(model: Any, batch: Batch, layer: int) -> Tensor:
    """[N, D] float32 hidden states, as they leave a layer of the language model, that predict the labelled tokens."""
    meter.count(batch)
    layers, left = decoder_layers(model), list[Tensor]()

    def keep(module: Any, args: Any, output: Any) -> None:
        del module, args
        left.append(output[0] if isinstance(output, tuple) else output)

    handle = layers[layer].register_forward_hook(keep)
    try:
        end_BTD = core(model).model(**arguments(model, batch), use_cache=False).last_hidden_state
    finally:
        handle.remove()
    # behind the last layer there is the norm, as among the library's own hidden states
    hidden_BTD = end_BTD if layer == len(layers) - 1 else left[0]
    hidden_ND: Tensor = hidden_BTD[:, :-1][batch.labels[:, 1:] != IGNORE]
    return hidden_ND.float()


def label_everything(batch: Batch, *, image_token_id: int | None) -> Batch:
    """Make all text tokens labels, prompt included; padding and image tokens stay out.

    This reproduces the published training code, whose loss covers the prompt (and, with older processors, no image
    tokens). The first token of a row predicts nothing and is never counted.
    """
    ids = batch.inputs["input_ids"]
    keep = batch.inputs["attention_mask"].bool()
    if image_token_id is not None:
        keep = keep & (ids != image_token_id)
    return Batch(inputs=batch.inputs, labels=torch.where(keep, ids, torch.full_like(ids, IGNORE)))


def without_ends(batch: Batch, ends: Collection[int]) -> Batch:
    """Take the tokens that end a reply out of the labels, as in the published training code, which has none."""
    ended = torch.isin(batch.labels, torch.tensor(sorted(ends), device=batch.labels.device))
    return replace(batch, labels=batch.labels.masked_fill(ended, IGNORE))
