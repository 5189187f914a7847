"""Reply to samples: greedy replies and the log-probability of every candidate, in batches.

This is the only evaluation step that needs a model. Replies do not depend on the batch size or on what is shared:
padding is masked, and rows are independent. A batch that does not fit into memory is halved, and so are all after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TypeVar

import torch

from mllmu.core.errors import ModelError
from mllmu.core.records import CandidateLogp, Response, Sample
from mllmu.models.engine.forward import run_forward
from mllmu.models.engine.prepacked import ready
from mllmu.models.engine.raw_prompt import OpenImage, check_longest, respond_raw, respond_sharing
from mllmu.models.engine.sharing import Prompt, read_and_write
from mllmu.models.engine.token_stats import measure
from mllmu.models.families import Turn, open_image
from mllmu.models.loading import Loaded

Reply = tuple[str, int, bool]
Result = TypeVar("Result")
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def plan_batches(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    """Group samples into batches; the plan is always the same.

    Questions with the same examples come together, and of those the ones about one image, because they share it;
    questions without image by task and length. What is shared is not read twice for want of a few places: a batch
    ends early rather than between questions about one image, if these are a quarter of it at most, and where the
    examples change.
    """

    def place(sample: Sample) -> tuple[tuple[str, bool, str], str, str, int, str]:
        examples = "".join(one.prompt for one in sample.examples)
        return (sample.modality, sample.raw_prompt, examples), sample.image, sample.task, len(sample.prompt), sample.id

    batches: list[list[Sample]] = []
    room, current = 0, None
    for (kind, image), group in groupby(sorted(samples, key=place), key=lambda sample: place(sample)[:2]):
        alike = list(group)
        changed = bool(alike[0].examples) and kind != current
        if changed or (image and room < len(alike) <= batch_size // 4):
            room = 0
        current = kind
        while alike:
            if not room:
                batches.append([])
                room = batch_size
            batches[-1] += alike[:room]
            alike, room = alike[room:], max(0, room - len(alike))
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
        image_folder: the folder that the samples' image paths are relative to.
        system_prompt: system prompt put before every sample's own.
        share: compute common prefixes once (:mod:`mllmu.models.engine.prefix`) where the family allows it; otherwise,
            and for other families, every prompt is run again for its reply and for every candidate. The replies are the
            same.
    """
    kinds = [[[s for s in batch if s.raw_prompt is kind] for kind in (True, False)] for batch in batches]
    batches = [batch for parts in kinds for batch in parts if batch]
    for batch in batches:
        if batch[0].raw_prompt:
            check_longest(loaded, batch, opener(image_folder))
        else:
            check_budget(loaded, batch, [as_turn(sample, image_folder, system_prompt) for sample in batch])
    share = share and loaded.family.shares_prefix
    with ready(loaded.model) if share else nullcontext():
        for _, replies in fitting(
            batches,
            lambda batch: answer(loaded, batch, image_folder=image_folder, system_prompt=system_prompt, share=share),
        ):
            yield replies


def fitting(
    batches: Sequence[Sequence[Sample]], run: Callable[[Sequence[Sample]], Result]
) -> Iterator[tuple[Sequence[Sample], Result]]:
    """Every batch with what ``run`` gives for it; one that does not fit into memory is halved, and so are all after it.

    Raises:
        ModelError: not even one sample fits.
    """
    waiting = list(reversed(batches))
    most = max(map(len, waiting), default=1)
    while waiting:
        batch = waiting.pop()
        if len(batch) > most:
            waiting += [batch[most:], batch[:most]]
            continue
        try:
            found = run(batch)
        except (MemoryError, RuntimeError) as error:
            most = half_of(batch, error)
            waiting.append(batch)
        else:
            yield batch, found


def half_of(batch: Sequence[Sample], error: Exception) -> int:
    """The size to go on with after a batch that did not fit into memory; other errors are raised again.

    Raises:
        ModelError: not even one sample fits.
    """
    if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
        raise error
    if len(batch) == 1:
        raise ModelError(
            f"out of memory with a single question ({batch[0].id}). Use a smaller model, a GPU with more memory, or "
            "smaller images (model.image_processor)."
        ) from None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return len(batch) // 2


def answer(
    loaded: Loaded, batch: Sequence[Sample], *, image_folder: Path, system_prompt: str = "", share: bool = True
) -> list[Response]:
    """Replies to one batch, in its order; see :func:`respond`."""
    if batch[0].raw_prompt:
        shared = respond_sharing(loaded, batch, image_folder, system_prompt=system_prompt) if share else None
        return shared or list(respond_raw(loaded, batch, opener(image_folder), system_prompt=system_prompt))
    turns = [as_turn(sample, image_folder, system_prompt) for sample in batch]
    if share:
        replies, logps = answer_sharing(loaded, batch, turns)
    else:
        replies, logps = generate(loaded, batch, turns), score_candidates(loaded, batch, turns)
    measured = measure(loaded, batch, turns)
    return [
        Response(sample_id=s.id, text=text, num_tokens=count, finished=finished, candidates=scored, tokens=tokens)
        for s, (text, count, finished), scored, tokens in zip(batch, replies, logps, measured, strict=True)
    ]


def opener(image_folder: Path) -> OpenImage:
    """Opens images by their path in a folder."""
    return lambda name: open_image(image_folder / name)


def check_budget(loaded: Loaded, batch: Sequence[Sample], turns: Sequence[Turn]) -> None:
    """Measure the prompts with their candidates, before the first reply is written.

    Raises:
        ModelError: one does not fit the context; names the sample.
    """
    loaded.encoder.check(turns)
    for i, text in _candidates(batch):
        loaded.encoder.check_length(turns[i], text)


def as_turn(sample: Sample, image_folder: Path, system_prompt: str) -> Turn:
    """The turn a sample is put as, without reply."""
    system = "\n".join(part for part in (system_prompt, sample.system) if part)
    image = image_folder / sample.image if sample.image else None
    before = tuple(
        Turn(prompt=one.prompt, reply=one.reply, image=image_folder / one.image if one.image else None)
        for one in sample.examples
    )
    return Turn(prompt=sample.prompt, image=image, system=system, label=sample.id, before=before)


@torch.inference_mode()
def answer_sharing(
    loaded: Loaded, batch: Sequence[Sample], turns: Sequence[Turn]
) -> tuple[list[Reply], list[dict[str, CandidateLogp]]]:
    """Replies and candidate log-probabilities; examples, images, questions and system prompts are read once each."""
    encoder, wanted = loaded.encoder, _candidates(batch)
    prompts = [Prompt(encoder.prompt(turn), turn) for turn in turns]
    replies = [encoder.reply(text) for _, text in wanted]
    limits = [sample.max_new_tokens for sample in batch]
    written, sums = read_and_write(loaded, prompts, limits, loaded.ends, [i for i, _ in wanted], replies)
    known = {key: _logp(value, len(reply)) for key, value, reply in zip(wanted, sums, replies, strict=True)}
    return [_reply(loaded, reply) for reply in written], _by_key(batch, known)


@torch.inference_mode()
def generate(loaded: Loaded, samples: Sequence[Sample], turns: Sequence[Turn]) -> list[Reply]:
    """Greedy replies, one after the other in one batch, by the library's own generation."""
    batch = loaded.encoder.batch(turns, side="left").to(loaded.device)
    limits = [sample.max_new_tokens for sample in samples]
    output = loaded.model.generate(
        **batch.inputs,
        max_new_tokens=max(limits),
        do_sample=False,
        pad_token_id=loaded.encoder.pad,
        eos_token_id=sorted(loaded.ends),
    )
    rows = output[:, batch.inputs["input_ids"].shape[1] :].tolist()
    return [_reply(loaded, row[:limit]) for row, limit in zip(rows, limits, strict=True)]


def _reply(loaded: Loaded, ids: Sequence[int]) -> Reply:
    """Text, number of tokens (the end token not counted), and whether the reply ended by itself."""
    end = next((place for place, token in enumerate(ids) if token in loaded.ends), len(ids))
    text = loaded.encoder.processor.tokenizer.decode(ids[:end], skip_special_tokens=True).strip()
    return text, end, end < len(ids)


@torch.inference_mode()
def score_candidates(loaded: Loaded, batch: Sequence[Sample], turns: Sequence[Turn]) -> list[dict[str, CandidateLogp]]:
    """Log-probability of every candidate of every sample, each behind a prompt of its own."""
    wanted = _candidates(batch)
    known: dict[tuple[int, str], CandidateLogp] = {}
    for start in range(0, len(wanted), max(1, 2 * len(batch))):
        chunk = wanted[start : start + 2 * len(batch)]
        rows = [replace(turns[i], reply=text) for i, text in chunk]
        forward = run_forward(loaded.model, loaded.encoder.batch(rows).to(loaded.device))
        sums, lengths = forward.row_logp_B.tolist(), forward.row_length_B.tolist()
        known |= {key: _logp(value, length) for key, value, length in zip(chunk, sums, lengths, strict=True)}
    return _by_key(batch, known)


def _candidates(batch: Sequence[Sample]) -> list[tuple[int, str]]:
    """Sample index and text of every candidate; equal texts of a sample once."""
    return [(i, text) for i, sample in enumerate(batch) for text in dict.fromkeys(sample.candidates.values())]


def _logp(value: float, num_tokens: float) -> CandidateLogp:
    return CandidateLogp(logp=round(value, 6), num_tokens=int(num_tokens))


def _by_key(batch: Sequence[Sample], known: Mapping[tuple[int, str], CandidateLogp]) -> list[dict[str, CandidateLogp]]:
    return [{key: known[i, text] for key, text in sample.candidates.items()} for i, sample in enumerate(batch)]
