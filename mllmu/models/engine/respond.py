"""Reply to samples: greedy replies and the log-probability of every candidate, in batches.

This is the only evaluation step that needs a model. Replies depend neither on the batch size nor on what is shared. A
batch that does not fit into memory is halved, and so are all after it. Prompts with the same system text and examples
share those; those with the same image share all up to its end::

    examples (5 images) -> image p -> question 1
                                   -> question 2
                        -> image q -> question 3
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from mllmu.core.records import CandidateLogp, Response, Sample, TokenStats
from mllmu.models import devices
from mllmu.models.encoding import FEATURES, EncodedPrompt, Encoder, as_turn, grouped, image_features, shared_length
from mllmu.models.engine import decode_graph, forward, plain, raw_prompt, visibility
from mllmu.models.engine.tree import TreeLevel
from mllmu.models.families import core
from mllmu.models.loading import Loaded

Result = TypeVar("Result")
SHORTEST = 16
"""Tokens of an opening that are worth a level of their own; a shorter one is read with every prompt."""


def plan_batches(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """Group samples into batches; the plan is always the same.

    Questions with the same examples come together, and of those the ones about one image; those without image by task
    and length. Shared tokens are not read twice for want of a few places: a batch ends early rather than between
    questions that share examples or image, if these are a quarter of it at most, and around examples of more questions.
    """

    def order(sample: Sample) -> tuple[tuple[str, bool, str], str, str, int, str]:
        examples = "".join(one.prompt for one in sample.examples)
        return (sample.modality, sample.raw_prompt, examples), sample.image, sample.task, len(sample.prompt), sample.id

    batches, room, few = list[list[Sample]](), 0, batch_size // 4
    for _, opening in groupby(sorted(samples, key=order), key=lambda sample: order(sample)[0]):
        members = list(opening)
        shown, many = bool(members[0].examples), len(members) > few
        if shown and (many or room < len(members)):
            room = 0
        for image, group in groupby(members, key=lambda sample: sample.image):
            alike = list(group)
            room = 0 if image and room < len(alike) <= few else room
            for sample in alike:
                if not room:
                    batches.append([])
                    room = batch_size
                batches[-1].append(sample)
                room -= 1
        room = 0 if shown and many else room
    return batches


def respond(
    loaded: Loaded,
    batches: Sequence[Sequence[Sample]],
    *,
    image_folder: Path,
    system_prompt: str = "",
    share: bool = True,
) -> Iterator[list[Response]]:
    """Reply to each batch in turn.

    Args:
        image_folder, system_prompt: the samples' image paths start from one, the other stands before their own.
        share: read common prefixes once, if the family allows it; otherwise every prompt is run again for its reply
            and for every candidate. The replies are the same.

    Raises:
        ModelError: a prompt with one of its candidates does not fit the context; before the first reply is written.
    """
    batches = raw_apart(batches)
    if raw := [sample for batch in batches for sample in batch if sample.raw_prompt]:
        raw_prompt.check_longest(loaded, raw, image_folder)
    for batch in batches:
        for sample in () if batch[0].raw_prompt else batch:
            turn = as_turn(sample, image_folder, system_prompt)
            for text in ("", *sample.candidates.values()):
                loaded.encoder.check_length(turn, text)
    share = share and loaded.shares
    run = partial(answer, loaded, image_folder=image_folder, system_prompt=system_prompt, share=share)
    on_gpu = loaded.device.type == "cuda"
    ready = forward.prepacked(loaded.model, loaded.family.lora_targets) if share else nullcontext()
    with ready, decode_graph.quickly(loaded.model) if on_gpu else nullcontext():
        for _, responses in fitting(batches, run):
            yield responses


def raw_apart(batches: Iterable[Sequence[Sample]]) -> list[list[Sample]]:
    """The batches as they are asked: raw prompts never together with others."""
    halves = ([s for s in batch if s.raw_prompt is raw] for batch in batches for raw in (True, False))
    return [half for half in halves if half]


def fitting(
    batches: Sequence[Sequence[Sample]], run: Callable[[Sequence[Sample]], Result]
) -> Iterator[tuple[Sequence[Sample], Result]]:
    """Every batch with the result of ``run``; one that does not fit into memory is halved, and so are all after it."""
    waiting = list(reversed(batches))
    most = max(map(len, waiting), default=1)
    while waiting:
        batch = waiting.pop()
        if len(batch) > most:
            waiting += [batch[most:], batch[:most]]
            continue
        try:
            result = run(batch)
        except (MemoryError, RuntimeError) as error:
            most = devices.half_of(batch, error)
            waiting.append(batch)
        else:
            yield batch, result


def answer(
    loaded: Loaded, batch: Sequence[Sample], *, image_folder: Path, system_prompt: str = "", share: bool = True
) -> list[Response]:
    """Responses to one batch, in its order; see :func:`respond`."""
    if batch[0].raw_prompt:
        return raw_prompt.answer(loaded, batch, image_folder, system_prompt, read_and_write if share else None)
    turns = [as_turn(sample, image_folder, system_prompt) for sample in batch]
    candidates = candidates_of(batch)
    owners, replies = [i for i, _ in candidates], [scored_ids(loaded.encoder, batch[i], text) for i, text in candidates]
    prompts = [EncodedPrompt(loaded.encoder.prompt(turn), turn) for turn in turns]
    lengths = (len(prompt.ids) for prompt in prompts)
    limits = [loaded.encoder.room(n, limit_of(loaded.encoder, s)) for n, s in zip(lengths, batch, strict=True)]
    if share:
        written, logps = read_and_write(loaded, prompts, limits, loaded.ends, owners, replies)
    else:
        written, logps = plain.generate(loaded, turns, limits), plain.score(loaded, turns, candidates, replies)
    stats = plain.measure(loaded, batch, turns) if any(sample.measured for sample in batch) else ()
    return responses(loaded.encoder, batch, written, loaded.ends, dict(zip(candidates, logps, strict=True)), stats)


def limit_of(encoder: Encoder, sample: Sample) -> int:
    """Most tokens of a reply: those of its sample, or as many as the right one and its candidates need to end."""
    return max(
        sample.max_new_tokens, *(len(encoder.reply(text)) for text in (sample.target, *sample.candidates.values()))
    )


def scored_ids(encoder: Encoder, sample: Sample, text: str) -> list[int]:
    """The tokens of a candidate whose log-probabilities are summed: the letter of an option goes without its end."""
    ids = encoder.reply(text)
    return ids[:-1] if text in sample.options and len(ids) > 1 else ids


def candidates_of(batch: Sequence[Sample]) -> list[tuple[int, str]]:
    """The replies whose log-probability is wanted, each with the number of its sample."""
    return [(i, text) for i, sample in enumerate(batch) for text in dict.fromkeys(sample.candidates.values())]


def responses(
    encoder: Encoder,
    batch: Sequence[Sample],
    written: Sequence[Sequence[int]],
    ends: Collection[int],
    logps: Mapping[tuple[int, str], float],
    stats: Sequence[TokenStats | None] = (),
) -> list[Response]:
    """The responses whose replies have the tokens ``written``, up to the first of ``ends``.

    Args:
        logps: log-probability in nats of each of the :func:`candidates_of` the batch.
        stats: token statistics of each sample, if there are any.
    """

    def scored(i: int, text: str) -> CandidateLogp:
        return CandidateLogp(logp=round(logps[i, text], 6), num_tokens=len(scored_ids(encoder, batch[i], text)))

    found = []
    for i, (sample, ids) in enumerate(zip(batch, written, strict=True)):
        length = next((number for number, token in enumerate(ids) if token in ends), len(ids))
        text = encoder.processor.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
        made = Response(sample_id=sample.id, text=text, num_tokens=length, finished=length < len(ids))
        candidates = {key: scored(i, each) for key, each in sample.candidates.items()}
        found.append(made.model_copy(update={"candidates": candidates, "tokens": stats[i] if stats else None}))
    return found


class Piece(NamedTuple):
    """A node of a level: behind which node of the level before, and which tokens of which prompt."""

    parent: int
    prompt: int
    tokens: slice


class SharingPlan(NamedTuple):
    """Prompts that share in the same manner: each level continues the one before, the last has a node per prompt."""

    levels: list[list[Piece]]
    members: list[int]


@torch.inference_mode()
def read_and_write(
    loaded: Loaded,
    prompts: Sequence[EncodedPrompt],
    limits: Sequence[int],
    ends: frozenset[int],
    owners: Sequence[int] = (),
    candidates: Sequence[Sequence[int]] = (),
) -> tuple[list[list[int]], list[float]]:
    """The tokens of a greedy reply to every prompt, and the log-probability of candidates in nats.

    Args:
        limits, ends: most tokens of each reply, and the tokens that end one.
        owners, candidates: the number of the prompt that each candidate is a reply to, and its tokens.
    """
    written: dict[int, list[int]] = {}
    logps: dict[int, float] = {}
    plans, features = plan_sharing(loaded, prompts)
    decode = decode_graph.decode if loaded.device.type == "cuda" else forward.decode
    for each in plans:
        level = _read(loaded, prompts, each, features)
        first_NV = forward.next_logits(loaded.model, level)
        node = {prompt: number for number, prompt in enumerate(each.members)}
        own = [i for i, prompt in enumerate(owners) if prompt in node]
        parents, replies = [node[owners[i]] for i in own], [candidates[i] for i in own]
        logps.update(zip(own, forward.reply_logps(loaded.model, level, first_NV, parents, replies), strict=True))
        decoded = decode(loaded.model, level, first_NV, [limits[i] for i in each.members], ends)
        written.update(zip(each.members, decoded, strict=True))
    return [written[i] for i in range(len(prompts))], [logps[i] for i in range(len(candidates))]


def plan_sharing(
    loaded: Loaded, prompts: Sequence[EncodedPrompt]
) -> tuple[list[SharingPlan], list[list[Tensor]] | None]:
    """The plans of prompts, and the features of each one's images; None if images are put in as pixels."""
    features = image_features(loaded, [prompt.turn.images for prompt in prompts])
    if loaded.family.looks_ahead == "prompt":  # the meaning of a beginning depends on what follows it
        whole = [Piece(0, i, slice(0, len(prompt.ids))) for i, prompt in enumerate(prompts)]
        return [SharingPlan([whole], list(range(len(prompts))))], features
    mark = loaded.image_token_id
    starts = [_own_start(prompt, features[i] if features else None, mark) for i, prompt in enumerate(prompts)]
    return plan(prompts, starts), features


def _own_start(prompt: EncodedPrompt, features: list[Tensor] | None, mark: int) -> int:
    """Index of the first token of the prompt's own image; 0 if what comes before cannot be read without it."""
    indices = [index for index, token in enumerate(prompt.ids) if token == mark]
    if not indices or (len(prompt.turn.images) > 1 and not features):
        return 0
    return indices[-len(features[-1])] if features else indices[0]


def plan(prompts: Sequence[EncodedPrompt], own_starts: Sequence[int]) -> list[SharingPlan]:
    """What is read in which order, for all prompts; for ``own_starts`` see :func:`_own_start`."""
    plans: dict[tuple[bool, bool], SharingPlan] = {}
    turns = [prompt.turn for prompt in prompts]
    openings = grouped(range(len(prompts)), lambda i: (turns[i].system, turns[i].before, turns[i].image is None))
    for members in openings.values():
        has_image = turns[members[0]].image is not None
        length = _opening(prompts, own_starts, members)
        empty = SharingPlan([[] for _ in range(1 + (length > 0) + has_image)], [])
        levels, planned = plans.setdefault((length > 0, has_image), empty)
        if length:
            levels[0].append(Piece(0, members[0], slice(0, length)))
        top = len(levels[0]) - 1 if length else 0
        for alike in grouped(members, lambda i: turns[i].image).values():
            parent, start = top, length
            if has_image:
                start = shared_length([prompts[i].ids for i in alike])
                levels[-2].append(Piece(top, alike[0], slice(length, start)))
                parent = len(levels[-2]) - 1
            levels[-1] += [Piece(parent, i, slice(start, len(prompts[i].ids))) for i in alike]
            planned += alike
    return list(plans.values())


def _opening(prompts: Sequence[EncodedPrompt], own_starts: Sequence[int], members: Sequence[int]) -> int:
    """How many tokens prompts of one opening begin with, before their own images; 0 if too few to matter."""
    images = {prompts[i].turn.image for i in members}
    if len(members) == 1 or (len(images) == 1 and None not in images):
        return 0  # an image that all show is shared with what comes before it
    length = shared_length([prompts[i].ids for i in members])
    if None not in images:
        length = min(length, *(own_starts[i] for i in members))
    return length if length >= SHORTEST else 0


def _read(
    loaded: Loaded, prompts: Sequence[EncodedPrompt], sharing: SharingPlan, features: list[list[Tensor]] | None
) -> TreeLevel:
    """Read prompts level by level; returns the last one, with a node per member."""
    level: TreeLevel | None = None
    looks, mark = loaded.family.looks_ahead, loaded.image_token_id
    for pieces in sharing.levels:
        ids = [prompts[piece.prompt].ids[piece.tokens] for piece in pieces]
        level = forward.read(
            loaded.model,
            level,
            [piece.parent for piece in pieces],
            ids,
            _images(loaded, prompts, features, pieces),
            ends=pieces is sharing.levels[-1],
            positions=[_positions(loaded, prompts[piece.prompt], piece.tokens) for piece in pieces],
            ahead_M=visibility.tokens_ahead(looks, ids, mark) if looks else None,
            ahead_of_windows=looks == "prompt",
        )
    assert level is not None  # noqa: S101 - a plan has at least one level
    return level


def _images(
    loaded: Loaded, prompts: Sequence[EncodedPrompt], features: list[list[Tensor]] | None, pieces: Sequence[Piece]
) -> dict[str, Tensor]:
    """The images among the tokens of a level: their part of the features, or the pixels of all images of its turns."""
    parts, turns, mark = [], [], loaded.image_token_id
    for _, i, tokens in pieces:
        before, here = (prompts[i].ids[part].count(mark) for part in (slice(tokens.start), tokens))
        if here and features:
            parts.append(torch.cat(features[i])[before : before + here])
        elif here:
            turns.append(prompts[i].turn)
    if parts:
        return {FEATURES: torch.cat(parts)}
    return {key: value.to(loaded.device) for key, value in loaded.encoder.images(turns).items()}


def _positions(loaded: Loaded, prompt: EncodedPrompt, tokens: slice) -> list[Sequence[int]] | None:
    """The positions of some tokens of a prompt by axis; None if they are counted on, as they are without an image."""
    if loaded.image_token_id not in prompt.ids[tokens]:
        return None
    images = partial(loaded.encoder.images, [prompt.turn])
    positions = loaded.family.positions(core(loaded.model), prompt.ids[: tokens.stop], images)
    return None if positions is None else [axis[tokens.start :] for axis in positions]
