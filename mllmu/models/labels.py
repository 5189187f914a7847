"""Labels of a batch other than its replies: of the prompt too, or without the tokens that end a reply."""

from collections.abc import Collection
from dataclasses import replace

import torch

from mllmu.models.families import IGNORE, Batch


def label_everything(batch: Batch, *, image_token_id: int) -> Batch:
    """Make all text tokens labels, prompt included; padding and image tokens stay out.

    This reproduces the published training code, whose loss covers the prompt (and, with older processors, no image
    tokens). The first token of a row predicts nothing and is never counted.
    """
    ids = batch.inputs["input_ids"]
    keep = batch.inputs["attention_mask"].bool() & (ids != image_token_id)
    return replace(batch, labels=ids.masked_fill(~keep, IGNORE), found=())


def without_ends(batch: Batch, ends: Collection[int]) -> Batch:
    """Take the tokens that end a reply out of the labels, as in the published training code, which has none."""
    ended = torch.isin(batch.labels, torch.tensor(sorted(ends), device=batch.labels.device))
    return replace(batch, labels=batch.labels.masked_fill(ended, IGNORE), found=())
