"""The memory that an evaluation takes beside the weights, and how many questions a batch starts with.

A batch holds the keys and values of its tokens, shared ones once, and while it is computed a layer's activations. Where
common tokens are read once, these are

    held = opening + images * image + questions * question + max(alike, again),    again = questions * (question + room)

tokens of keys and values. A level is as wide as its longest node. Candidates are read some at a time and dropped; while
replies are written the questions' own tokens are held a second time, with room to grow; on a GPU so are the levels
above, with room for whole replies (:mod:`mllmu.models.engine.decode_graph`). A level is read in one row, so
the longest row decides how much a layer allocates.

``mllmu plan`` puts planned counts into these formulas, :func:`starting_size` those of the real questions. Both are on
the safe side; a batch that does not fit all the same is halved (:func:`mllmu.models.engine.respond.respond`). Replies
do not depend on the size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mllmu.core.records import Sample
from mllmu.models.devices import free_bytes
from mllmu.models.encoding import EncodedPrompt, as_turn
from mllmu.models.engine.decode_graph import ROWS, SLOTS
from mllmu.models.engine.forward import MOST_LOGITS, MOST_TOKENS
from mllmu.models.engine.raw_prompt import raw_prompts
from mllmu.models.engine.respond import candidates_of, limit_of, plan_sharing
from mllmu.models.engine.tree import MOST_SCORES, STEPS_AHEAD
from mllmu.models.families import core
from mllmu.models.loading import Loaded

PROBE = 64
"""Questions that are counted."""
MOST = 256
"""Questions of the largest batch: more hardly make it quicker, and an interruption loses up to one batch."""
MOST_ON_GPU = 1024
"""The same on a GPU, which reads all weights for every token of a reply."""
SHARE = 0.6
"""Of the free memory that is used; the rest is for what is not counted and for pieces too small to be of use."""


class Moment(NamedTuple):
    """Tokens that are held, tokens that a layer works on, those that get logits, and scores of attention."""

    held: int
    read: int
    predicted: int
    scores: int


@dataclass(frozen=True, kw_only=True)
class QuestionBatch:
    """Questions of one batch, in tokens; those of the same task and image come together.

    Attributes:
        questions, images: how many; the images are those that differ.
        opening: of the examples that all begin with, images included.
        image: from there to the end of an image; 0 without.
        question: of the longest question, from the end of the image on.
        longest: of the longest candidate.
        alike: of the candidates of about one length, filled up to the longest, which are read together; the most.
        written: of the longest reply.
    """

    questions: int
    images: int
    opening: int
    image: int
    question: int
    longest: int
    alike: int
    written: int

    @property
    def row(self) -> int:
        """Tokens of a whole prompt."""
        return self.opening + self.image + self.question

    def shared(self, heads: int, *, looks_ahead: str, fused: bool) -> list[Moment]:
        """Reading prompts, reading candidates and writing, where common tokens are read once.

        Args:
            heads: of attention.
            looks_ahead: of the family; with "prompt" no two questions share their beginning.
            fused: attention holds no scores (on a CPU, mostly), and replies are written step by step.
        """
        levels = [self.opening, self.images * self.image, self.questions * self.question]
        levels = [self.questions * self.row] if looks_ahead == "prompt" else levels
        together = min(self.alike, MOST_TOKENS)

        def scores(tokens: int) -> int:
            return 0 if fused else min(MOST_SCORES, heads * tokens * self.row)

        rows = min(self.questions, ROWS)
        whole = sum(levels[:-1]) + rows * (levels[-1] // self.questions + self.written + SLOTS)
        written = levels[-1] + self.questions * STEPS_AHEAD if fused else whole
        return [
            Moment(sum(levels), max(levels), self.questions, scores(levels[-1])),
            Moment(sum(levels) + together, together, together, scores(together)),
            Moment(sum(levels) + written, self.questions, self.questions, scores(self.questions)),
        ]

    def apart(self, heads: int) -> list[Moment]:
        """Writing, and reading candidates behind a prompt of their own, two rows per question at a time.

        Args:
            heads: of attention, if the kernel holds its scores; otherwise 0.
        """
        many, row, longer = self.questions, self.row, self.row + self.longest
        return [
            Moment(many * (row + self.written), many * row, many, many * heads * row**2),
            Moment(0, 2 * many * longer, 2 * many * self.longest, 2 * many * heads * longer**2),
        ]


def kv_bytes(config: Any, width: int) -> int:
    """Bytes of the keys and values of one token; ``config`` is that of the language model, ``width`` bytes a number."""
    heads = int(config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * int(config.num_hidden_layers) * int(getattr(config, "num_key_value_heads", None) or heads) * size * width


def read_bytes(config: Any, width: int) -> int:
    """Bytes that a token takes while a layer works on it: input and output, and the feed-forward part."""
    return (8 * int(config.hidden_size) + 3 * int(config.intermediate_size)) * width


def passing_bytes(config: Any, width: int, moment: Moment, questions: int) -> int:
    """Bytes of the feed-forward part, of attention, or of the output layer, which are never at work together.

    A token takes its hidden state, in and out, and three times the inner size, or ten times the hidden size as queries,
    keys, values and their output. Scores and logits are also needed in float32.
    """
    hidden, inner, vocabulary = int(config.hidden_size), int(config.intermediate_size), int(config.vocab_size)
    feed_forward = moment.read * (4 * hidden + 3 * inner) * width
    attention = moment.read * 10 * hidden * width + moment.scores * (width + 4)
    # the first tokens' logits are kept; of others there are some at a time, with what their sum needs
    logits = min(MOST_LOGITS, moment.predicted * vocabulary) * (8 if width == 4 else width + 8)
    return questions * vocabulary * width + max(feed_forward, attention, logits)


def fixed_bytes() -> int:
    """Bytes that a batch of any size may take: attention weights and logits, some at a time, in float32."""
    return 4 * 2 * (MOST_SCORES + MOST_LOGITS)


def most_questions(free: float, needed: float, most: int = MOST) -> int:
    """How many questions fit into free memory if each needs so many bytes."""
    return max(1, min(most, int((SHARE * free - fixed_bytes()) / needed)))


def starting_size(loaded: Loaded, samples: Sequence[Sample], *, image_folder: Path, system_prompt: str = "") -> int:
    """How many of the samples to ask at once, counted on a batch of the longest prompts with and without image.

    Args:
        samples: in the order in which they are asked.
    """
    with_image, without = [s for s in samples if s.image], [s for s in samples if not s.image]
    probes = [longest(group) for group in (with_image, without) if group]
    needed = (bytes_of(loaded, p, image_folder=image_folder, system_prompt=system_prompt) / len(p) for p in probes)
    most = MOST_ON_GPU if loaded.device.type == "cuda" else MOST
    return most_questions(free_bytes(loaded.device), max(needed), most)


def longest(samples: Sequence[Sample]) -> Sequence[Sample]:
    """A batch around the longest prompt."""

    def length(sample: Sample) -> int:
        examples = () if sample.raw_prompt else sample.examples
        return len(sample.prompt) + sum(len(one.prompt) + len(one.reply) for one in examples)

    index = max(range(len(samples)), key=lambda i: length(samples[i]))
    start = max(0, min(index - PROBE // 2, len(samples) - PROBE))
    return samples[start : start + PROBE]


def bytes_of(loaded: Loaded, batch: Sequence[Sample], *, image_folder: Path, system_prompt: str = "") -> float:
    """Bytes that a batch needs: keys and values of all held tokens, and a layer's activations of those it reads."""
    config, width = core(loaded.model).config.get_text_config(), torch.finfo(loaded.model.dtype).bits // 8
    held, read = tokens_of(loaded, batch, image_folder=image_folder, system_prompt=system_prompt)
    return held * kv_bytes(config, width) + read * read_bytes(config, width)


def tokens_of(loaded: Loaded, batch: Sequence[Sample], *, image_folder: Path, system_prompt: str) -> tuple[int, int]:
    """Tokens that are held at the end of a batch, and the most that are read in one pass."""
    written = sum(sample.max_new_tokens if sample.raw_prompt else limit_of(loaded.encoder, sample) for sample in batch)
    prompts: list[EncodedPrompt] | None
    if batch[0].raw_prompt:
        prompts = raw_prompts(loaded, batch, image_folder, system_prompt)
        if prompts is None:
            return 0, 1  # asked one after the other, so any size will do
    else:
        turns = [as_turn(sample, image_folder, system_prompt) for sample in batch]
        prompts = [EncodedPrompt(loaded.encoder.prompt(turn), turn) for turn in turns]
    candidates = [len(loaded.encoder.reply(text)) for _, text in candidates_of(batch)]
    if not loaded.shares:
        # every candidate stands behind a prompt of its own, two rows per question at a time
        rows = len(batch) * (max(len(prompt.ids) for prompt in prompts) + max(candidates, default=0))
        return rows + written, rows * (2 if candidates else 1)
    plans, _ = plan_sharing(loaded, prompts)
    sizes = ([piece.tokens.stop - piece.tokens.start for piece in level] for plan in plans for level in plan.levels)
    levels = [sum(tokens) for tokens in sizes]
    written += sum(levels) if loaded.device.type == "cuda" else 0  # a second time, in buffers of fixed size
    return sum(levels) + max(sum(candidates), written), max(*levels, min(sum(candidates), MOST_TOKENS))
