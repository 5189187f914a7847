"""Other labels than the reply: those of the published training code."""

from collections.abc import Collection
from dataclasses import replace

import torch

from mllmu.models.families import IGNORE, Batch


def label_everything(batch: Batch, *, image_token_id: int | None) -> Batch:
    """Make all text tokens labels, prompt included; padding and image tokens stay out.

    This reproduces the published training code, whose loss covers the prompt (and, with older processors, no image
    tokens). The first token of a row predicts nothing and is never counted.
    """
    ids = batch.inputs["input_ids"]
    keep = batch.inputs["attention_mask"].bool()
    if image_token_id is not None:
        keep = keep & (ids != image_token_id)
    return replace(batch, labels=ids.masked_fill(~keep, IGNORE))


def without_ends(batch: Batch, ends: Collection[int]) -> Batch:
    """Take the tokens that end a reply out of the labels, as in the published training code, which has none."""
    ended = torch.isin(batch.labels, torch.tensor(sorted(ends), device=batch.labels.device))
    return replace(batch, labels=batch.labels.masked_fill(ended, IGNORE))
