"""How many questions a batch of the evaluation starts with: by the free memory and by what the questions need.

A question needs the keys and values of its own tokens and its share of those that it shares with others, counted on a
batch of the longest prompts, and room for the activations of one layer. This is an estimate on the safe side; a batch
that does not fit all the same is halved (:func:`mllmu.models.engine.respond.respond`). Replies do not
depend on the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mllmu.core.records import Sample
from mllmu.models.engine.attention import MOST_SCORES
from mllmu.models.engine.memory import free_bytes
from mllmu.models.engine.prefix import MOST_LOGITS, MOST_TOKENS
from mllmu.models.engine.raw_prompt import raw_prompts
from mllmu.models.engine.respond import as_turn
from mllmu.models.engine.sharing import Prompt, layout
from mllmu.models.loading import Loaded
from mllmu.models.parts import core

PROBE = 64
"""Questions that are counted."""
MOST = 256
"""Questions of the largest batch: more hardly make it quicker, and an interruption loses up to one batch."""
SHARE = 0.6
"""Of the free memory that is used; the rest is for what is not counted and for pieces too small to be of use."""


def starting_size(loaded: Loaded, samples: Sequence[Sample], *, image_folder: Path, system_prompt: str = "") -> int:
    """How many of the samples to ask at once.

    Args:
        samples: in the order in which they are asked.
    """
    free = SHARE * free_bytes(loaded.device) - fixed_bytes()
    probes = [longest(kind) for kind in ([s for s in samples if s.image], [s for s in samples if not s.image]) if kind]
    needed = max(
        bytes_of(loaded, probe, image_folder=image_folder, system_prompt=system_prompt) / len(probe) for probe in probes
    )
    return max(1, min(MOST, int(free / needed)))


def longest(samples: Sequence[Sample]) -> Sequence[Sample]:
    """A batch around the longest prompt."""
    place = max(range(len(samples)), key=lambda i: len(samples[i].prompt) + _examples(samples[i]))
    start = max(0, min(place - PROBE // 2, len(samples) - PROBE))
    return samples[start : start + PROBE]


def _examples(sample: Sample) -> int:
    return 0 if sample.raw_prompt else sum(len(one.prompt) + len(one.reply) for one in sample.examples)


def bytes_of(loaded: Loaded, batch: Sequence[Sample], *, image_folder: Path, system_prompt: str = "") -> float:
    """Memory that a batch needs: keys and values of all that is held, and a layer's activations of what is read."""
    config = core(loaded.model).config.get_text_config()
    width = torch.finfo(loaded.model.dtype).bits // 8
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    held_token = 2 * int(config.num_hidden_layers) * int(getattr(config, "num_key_value_heads", heads)) * size * width
    held, read = tokens_of(loaded, batch, image_folder=image_folder, system_prompt=system_prompt)
    return held * held_token + read * read_bytes(config, width)


def read_bytes(config: Any, width: int) -> int:
    """Memory that a token takes while a layer works on it: what comes in and goes out, and the feed-forward part."""
    return (8 * int(config.hidden_size) + 3 * int(config.intermediate_size)) * width


def tokens_of(loaded: Loaded, batch: Sequence[Sample], *, image_folder: Path, system_prompt: str) -> tuple[int, int]:
    """Tokens that are held at the end of a batch, and the most that are read in one pass."""
    written = sum(sample.max_new_tokens for sample in batch)
    encoder, prompts = loaded.encoder, None
    if batch[0].raw_prompt:
        prompts = raw_prompts(loaded, batch, image_folder, system_prompt)
        if prompts is None:
            return 0, 1  # asked one after the other, so any size will do
    else:
        prompts = [
            Prompt(encoder.prompt(turn), turn) for turn in (as_turn(s, image_folder, system_prompt) for s in batch)
        ]
    candidates = [len(encoder.reply(text)) for s in batch for text in dict.fromkeys(s.candidates.values())]
    if not loaded.family.shares_prefix:
        # every candidate stands behind a prompt of its own, two rows a question at a time
        rows = len(batch) * (max(len(prompt.ids) for prompt in prompts) + max(candidates, default=0))
        return rows + written, rows * (2 if candidates else 1)
    plans, _ = layout(loaded, prompts)
    steps = [sum(piece.stop - piece.start for _, piece in step.pieces) for plan in plans for step in plan.steps]
    return sum(steps) + max(sum(candidates), written), max(*steps, min(sum(candidates), MOST_TOKENS))


def fixed_bytes() -> int:
    """Memory that a batch of any size may take: attention weights and logits, some at a time, in float32."""
    return 4 * 2 * (MOST_SCORES + MOST_LOGITS)
