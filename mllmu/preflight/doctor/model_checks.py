"""Checks of a loaded base model: where adapters go, what fits the context, whether images fit their tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mllmu.core.records import Sample
from mllmu.models.engine.raw_prompt import encode
from mllmu.models.engine.respond import as_turn, opener
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.models.parts import core
from mllmu.preflight.doctor.verdict import Verdict, verdict

LANGUAGE = re.compile(r"(?:^|\.)(?:language_model|text_model|lm_head)(?:\.|$)")
"""Names of layers of the language model; the others with a name like a layer's belong to the way of the image."""
UNBOUNDED = 1 << 62
COUNTING = (
    "patch_size",
    "num_additional_image_tokens",
    "vision_feature_select_strategy",
    "image_seq_length",
    "image_seq_len",
)
"""Settings of a processor that decide how many tokens an image has."""


def targets_of(layers: Iterable[str], pattern: str) -> list[str]:
    """The layers a pattern matches as a whole, as adapters are put on."""
    return [name for name in layers if re.fullmatch(pattern, name)]


def adapters_on_language(who: str, layers: Sequence[str], pattern: str, *, published: bool = False) -> Verdict:
    """No adapter is put on vision tower or projector; ``published``: the method says so itself."""
    matched = targets_of(layers, pattern)
    outside = [name for name in matched if not LANGUAGE.search(name)]
    check = f"adapters of {who}"
    if not matched:
        return Verdict(check, "FAULT", f"{pattern!r} matches no layer")
    if outside and published:
        text = f"deviation, layers: published: {len(outside)} of {len(matched)} layers are on the way of the image"
        return Verdict(check, "note", f"{text}, e.g. {outside[0]}")
    found = (
        [f"{len(outside)} of {len(matched)} layers are outside the language model, e.g. {outside[0]}"]
        if outside
        else []
    )
    return verdict(check, found, f"{len(matched)} layers of the language model, e.g. {matched[0]}")


def frozen_parts(model: Any, patterns: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Parts of the model: how many parameters each has, and how many of its layers get adapters."""
    own = core(model)
    layers = [name for name, _ in own.named_modules()]
    touched = {name for pattern in patterns for name in targets_of(layers, pattern)}
    parts = {f"model.{name}": part for name, part in own.model.named_children()}
    return {
        name: (sum(p.numel() for p in part.parameters()), sum(t.startswith(f"{name}.") for t in touched))
        for name, part in parts.items()
    }


class Length(NamedTuple):
    """Tokens of a prompt, with its longest reply to be scored, and with as many as may be written."""

    what: str
    prompt: int
    scored: int
    written: int


def turn_lengths(loaded: Loaded, turns: Iterable[Turn]) -> Iterator[Length]:
    """Lengths of training turns."""
    for turn in turns:
        prompt = len(loaded.encoder.prompt(turn))
        total = prompt + len(loaded.encoder.reply(turn.reply))
        yield Length(f"training, person {turn.person}: '{turn.prompt[:40]}'", prompt, total, total)


def sample_lengths(
    loaded: Loaded, samples: Iterable[Sample], image_folder: Path, system_prompt: str = ""
) -> Iterator[Length]:
    """Lengths of samples with their examples; of prompts that are put as they are, by the processor itself."""
    encoder = copy(loaded.encoder)
    encoder.context = UNBOUNDED  # what does not fit is to be measured, too
    free = replace(loaded, encoder=encoder)
    for sample in samples:
        if sample.raw_prompt:
            prompt = int(encode(free, sample, opener(image_folder), system_prompt=system_prompt)["input_ids"].shape[1])
        else:
            prompt = len(encoder.prompt(as_turn(sample, image_folder, system_prompt)))
        scored = max((len(encoder.reply(text)) for text in sample.candidates.values()), default=0)
        yield Length(sample.id, prompt, prompt + scored, prompt + sample.max_new_tokens)


def longest_of_kind(samples: Iterable[Sample]) -> list[Sample]:
    """The sample with the longest text of every task, modality and number of examples."""
    longest: dict[tuple[str, str, int], Sample] = {}
    for sample in samples:
        kind = (sample.task, sample.modality, len(sample.examples))
        if kind not in longest or _size(sample) > _size(longest[kind]):
            longest[kind] = sample
    return list(longest.values())


def _size(sample: Sample) -> int:
    return len(sample.prompt) + sum(
        len(one.prompt) + len(one.reply) for one in sample.examples if not sample.raw_prompt
    )


def fits_context(lengths: Sequence[Length], context: int) -> Verdict:
    """Every prompt with the reply that is trained or scored fits; a note where a written reply could run over."""
    found = [f"{one.what} has {one.scored} tokens, the context is {context}" for one in lengths if one.scored > context]
    over = [one for one in lengths if one.written > context]
    if over and not found:
        worst = max(over, key=lambda one: one.written)
        text = f"{len(over)} prompts fit, but a reply of full length would not ({worst.what}: {worst.written})"
        return Verdict("context", "note", f"{text}; the context is {context}")
    longest = max(lengths, key=lambda one: one.scored, default=Length("nothing", 0, 0, 0))
    fine = f"{len(lengths)} prompts; the longest has {longest.scored} of {context} tokens ({longest.what})"
    return verdict("context", found, fine)


@torch.inference_mode()
def image_tokens(loaded: Loaded, turns: Mapping[Path, Turn]) -> Verdict:
    """The processor gives an image as many tokens as the model gives features.

    Args:
        turns: one turn with an image for every image to be looked at.
    """
    found, counts = [], set()
    for path, turn in turns.items():
        tokens = loaded.encoder.prompt(turn).count(-1 if loaded.image_token_id is None else loaded.image_token_id)
        fault = _image_fault(loaded, turn, tokens)
        found += [f"{path.name}: {fault}"] if fault else []
        counts.add(tokens)
    if found:
        own = loaded.encoder.processor
        used = [f"{name} {value}" for name in COUNTING if (value := getattr(own, name, None)) is not None]
        found.insert(0, f"the processor counts with {', '.join(used) or 'settings of its own'} (processor_config.json)")
    fine = f"{len(turns)} images of {' or '.join(map(str, sorted(counts)))} tokens have as many features"
    return verdict("image tokens", found, fine if turns else "no image is trained or asked about")


def _image_fault(loaded: Loaded, turn: Turn, tokens: int) -> str:
    try:
        if not loaded.family.image_parts:  # its model counts for itself, and refuses what does not fit
            core(loaded.model)(**loaded.encoder.batch([turn]).to(loaded.device).inputs)
            return ""
        loaded.encoder.prompt(turn)
        pixels = {key: value.to(loaded.device) for key, value in loaded.encoder.images([turn]).items()}
        features = len(loaded.family.image_features(core(loaded.model), pixels))
    except (ValueError, RuntimeError, IndexError) as error:
        return f"the model does not take it: {' '.join(str(error).split())[:200]}"
    return "" if features == tokens else f"{tokens} tokens in the prompt, {features} features from the model"
