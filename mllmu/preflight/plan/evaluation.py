"""What evaluation holds and reads: the engine's levels of shared tokens, counted (see docs/explanation/engine.md).

    held = examples + images * image + questions * question + max(alike, questions * (question + room))

in tokens of keys and values. A level is as wide as its longest node. Candidates are read some at a time and dropped;
while replies are written the questions' own tokens are held a second time, with room to grow. Everything is read in
one row a level, so the longest row decides how much a layer allocates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mllmu.config.recipe import Evaluate
from mllmu.core import plugins
from mllmu.core.records import TaskName
from mllmu.models.engine.attention import MOST_SCORES
from mllmu.models.engine.batch_size import MOST, PROBE, SHARE, fixed_bytes, read_bytes
from mllmu.models.engine.image_features import MOST_BYTES
from mllmu.models.engine.prefix import MOST_LOGITS, MOST_TOKENS
from mllmu.models.engine.tree import STEPS_AHEAD
from mllmu.preflight.plan import workload as loads
from mllmu.preflight.plan.facts import BYTES, ModelFacts

PUBLISHED_EXAMPLES: dict[TaskName, int] = {"classification": 5, "cloze": 4}
"""Examples before a question in the published prompts, each with its image."""
TURN = loads.TEMPLATE_TOKENS // 2
"""Tokens of the template on either side of where an image ends."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Questions that are asked at once, in tokens; those of the same task and image come together.

    Attributes:
        questions, images: how many; the images are those that differ.
        opening: of the examples that all begin with, images included.
        image: from there to the end of an image; 0 without.
        question: of the longest question, from the end of the image on.
        longest: of the longest candidate.
        alike: of the candidates of about one length, filled up to the longest, which are read together; the most.
    """

    questions: int
    images: int
    opening: int
    image: int
    question: int
    longest: int
    alike: int

    @property
    def row(self) -> int:
        """Tokens of a whole prompt."""
        return self.opening + self.image + self.question


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes beside the weights at the worst moment.

    Attributes:
        cache: keys and values.
        passing: what a layer or the output layer allocates and gives back.
        features: remembered features of images.
    """

    cache: int
    passing: int
    features: int

    @property
    def whole(self) -> int:
        return self.cache + self.passing + self.features


class Moment(NamedTuple):
    """Tokens that are held, tokens that a layer works on, those that get logits, and scores of attention."""

    held: int
    read: int
    predicted: int
    scores: int


def shares(facts: ModelFacts, evaluate: Evaluate) -> bool:
    """What prompts have in common is read once; published prompts only where features of images are known."""
    return facts.shares and (evaluate.protocol.prompts == "chat" or bool(facts.family.image_parts))


def asked_at_once(evaluate: Evaluate, facts: ModelFacts, image_tokens: int, questions: int) -> list[Asked]:
    """The kinds of batches with images that a recipe has: one of all tasks, or one of each that has examples."""
    if not shares(facts, evaluate) and evaluate.protocol.prompts == "published":
        questions = 1  # asked one after the other
    told = {task: num_examples(evaluate, task) for task in evaluate.tasks}
    groups = [[task] for task in evaluate.tasks if told[task]]
    groups += [group] if (group := [task for task in evaluate.tasks if not told[task]]) else []
    return [_asked(group, told[group[0]], image_tokens, questions) for group in groups]


def num_examples(evaluate: Evaluate, task: TaskName) -> int:
    """Exchanges before a question of a task."""
    shots = evaluate.protocol.shots
    wanted = shots.by_task[task]
    if wanted == "published":
        return PUBLISHED_EXAMPLES.get(task, 0)
    people = wanted if isinstance(wanted, int) else len(wanted)
    return people * (1 if shots.questions == "one" else loads.ASKED_PER_PERSON[task] // 2)


def example_tokens(task: TaskName, image_tokens: int) -> int:
    """Of one exchange before a question, with its image."""
    return image_tokens + loads.TEMPLATE_TOKENS + loads.QUESTION_TOKENS[task] + loads.REPLY_TOKENS[task]


def _asked(tasks: list[TaskName], examples: int, image_tokens: int, questions: int) -> Asked:
    about = {task: loads.ASKED_PER_PERSON[task] / 2 for task in tasks}  # half of the questions show the image
    share = {task: questions * count / sum(about.values()) for task, count in about.items()}
    alike: dict[int, float] = {}
    for task, count in share.items():
        length = loads.REPLY_TOKENS[task]
        kind = length.bit_length()
        alike[kind] = alike.get(kind, 0) + count * loads.CANDIDATES[task] * length
    return Asked(
        questions=questions,
        images=-(-questions // round(sum(about.values()))),
        opening=examples * example_tokens(tasks[0], image_tokens),
        image=image_tokens + TURN,
        question=TURN + max(loads.QUESTION_TOKENS[task] for task in tasks),
        longest=max(loads.REPLY_TOKENS[task] for task in tasks),
        alike=round(max(alike.values())),
    )


def memory(facts: ModelFacts, asked: Asked, *, shared: bool, fused: bool, people: int = 0) -> Held:
    """What a batch needs beside the weights.

    Args:
        shared: common tokens are read once.
        fused: attention holds no scores (on a CPU, mostly).
        people: whose images have been seen.
    """
    moments = _shared(facts, asked, fused=fused) if shared else _apart(facts, asked)
    seen = features(facts, people, asked.image - TURN)
    found = [
        Held(cache=moment.held * facts.kv_token, passing=passing(facts, asked, moment), features=seen)
        for moment in moments
    ]
    return max(found, key=lambda held: held.whole)


def _shared(facts: ModelFacts, asked: Asked, *, fused: bool) -> list[Moment]:
    """Reading prompts, reading candidates and writing, where common tokens are read once."""
    levels, heads, many = _levels(facts, asked), int(facts.text.num_attention_heads), asked.questions
    together = min(asked.alike, MOST_TOKENS)

    def scores(tokens: int) -> int:
        return 0 if fused else min(MOST_SCORES, heads * tokens * asked.row)

    return [
        Moment(sum(levels), max(levels), many, scores(levels[-1])),
        Moment(sum(levels) + together, together, together, scores(together)),
        Moment(sum(levels) + levels[-1] + many * STEPS_AHEAD, many, many, scores(many)),
    ]


def _apart(facts: ModelFacts, asked: Asked) -> list[Moment]:
    """Writing, and reading candidates where each stands behind a prompt of its own, two rows a question at a time."""
    heads = int(facts.text.num_attention_heads) if facts.config._attn_implementation == "eager" else 0
    many, row, longer = asked.questions, asked.row, asked.row + asked.longest
    return [
        Moment(many * (row + most_written()), many * row, many, many * heads * row**2),
        Moment(0, 2 * many * longer, 2 * many * asked.longest, 2 * many * heads * longer**2),
    ]


def passing(facts: ModelFacts, asked: Asked, moment: Moment) -> int:
    """Bytes of the feed-forward part, of attention, or of the output layer, which are never at work together.

    A token takes its hidden state, in and out, and three times the inner size, or ten times the hidden size as
    queries, keys, values and what they give. Scores and logits are also needed in float32.
    """
    text, width = facts.text, BYTES[facts.dtype]
    hidden, inner = int(text.hidden_size), int(text.intermediate_size)
    forward = moment.read * (4 * hidden + 3 * inner) * width
    attention = moment.read * 10 * hidden * width + moment.scores * (width + 4)
    # the first tokens' logits are kept; of others there are some at a time, with what their sum needs
    kept = asked.questions * int(text.vocab_size) * width
    logits = min(MOST_LOGITS, moment.predicted * int(text.vocab_size)) * (8 if width == 4 else width + 8)
    return kept + max(forward, attention, logits)


def most_at_once(evaluate: Evaluate, facts: ModelFacts, image_tokens: int, free: float) -> int:
    """What ``evaluate.batch_size: auto`` starts with; see :func:`mllmu.models.engine.batch_size.starting_size`."""
    shared = shares(facts, evaluate)
    kinds = asked_at_once(evaluate, facts, image_tokens, PROBE)
    needed = 0.0
    for kind in kinds:
        moments = _shared(facts, kind, fused=False) if shared else _apart(facts, kind)
        read = max(moment.read for moment in moments) * read_bytes(facts.text, BYTES[facts.dtype])
        needed = max(needed, (max(moment.held for moment in moments) * facts.kv_token + read) / kind.questions)
    return max(1, min(MOST, int((SHARE * free - fixed_bytes()) / needed)))


def _levels(facts: ModelFacts, asked: Asked) -> list[int]:
    """Tokens of every level of prompts, padding included."""
    if facts.family.looks_ahead == "prompt":
        return [asked.questions * asked.row]
    return [asked.opening, asked.images * asked.image, asked.questions * asked.question]


def features(facts: ModelFacts, images: int, image_tokens: int) -> int:
    """Bytes of remembered features of images."""
    if not facts.family.image_parts:
        return 0
    return min(MOST_BYTES, images * image_tokens * int(facts.text.hidden_size) * BYTES[facts.dtype])


def most_written() -> int:
    """Tokens of the longest reply that any task asks for."""
    return max(int(plugins.find("tasks", task).model_fields["max_new_tokens"].default) for task in loads.REPLY_TOKENS)


def tokens_read(evaluate: Evaluate, facts: ModelFacts, image_tokens: int, people: int, questions: int) -> float:
    """Tokens that are read to ask some people everything, in batches of so many questions."""
    shared = shares(facts, evaluate)
    alone = facts.family.looks_ahead == "prompt"  # no two questions share an image
    read = 0.0
    for task in evaluate.tasks:
        asked, examples = people * loads.ASKED_PER_PERSON[task], num_examples(evaluate, task)
        own = loads.TEMPLATE_TOKENS + loads.QUESTION_TOKENS[task] + (0 if shared and not alone else image_tokens / 2)
        opening = examples * (example_tokens(task, image_tokens) + example_tokens(task, 0)) / 2
        if shared:
            read += asked * own + opening * asked / questions
        else:
            read += asked * (1 + loads.CANDIDATES[task]) * (own + opening)
        read += asked * loads.CANDIDATES[task] * loads.REPLY_TOKENS[task]
    beginnings = {(task if num_examples(evaluate, task) else "") for task in evaluate.tasks}
    return read + (people * image_tokens * len(beginnings) if shared and not alone else 0)
