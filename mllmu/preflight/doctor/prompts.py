"""The checks that put every prompt and image of a recipe through the processor of its model, before any training."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig

from mllmu.core.errors import DataError, ModelError, one_line
from mllmu.core.records import Sample
from mllmu.models.encoding import as_turn
from mllmu.models.engine.raw_prompt import encode
from mllmu.models.families import Turn, open_image
from mllmu.models.families._chat import ChatFamily, remarks
from mllmu.models.loading import Loaded
from mllmu.preflight.doctor.checks import CheckResult, result, unbounded

FARTHEST = 10.0
"""Normalised pixels lie between -3 and 3."""
CONTRAST = (2e-4, 0.2)
"""By how much a prepared pixel changes with one step of 255 of the image, at least and at most: 1/255 to 1/58."""
PLAIN_CONTRAST = 64
"""Steps between the darkest and the brightest pixel of an image that this is measured on."""
GENERATION_FILE = "generation_config.json"
SCALE = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
SAMPLING = {
    "bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "do_sample", "temperature", "top_k",
    "top_p", "min_p", "typical_p", "max_length", "max_new_tokens", "use_cache", "cache_implementation",
    "_from_model_config", "trust_remote_code",
}  # fmt: skip
"""Settings of decoding that say nothing about greedy replies of a given length."""


class Prompted(NamedTuple):
    """The tokens of a prompt and of the replies that are trained or scored behind it."""

    what: str
    prompt: Sequence[int]
    replies: Sequence[Sequence[int]]


def encoded(
    loaded: Loaded, turns: Iterable[Turn], samples: Iterable[Sample], image_folder: Path
) -> tuple[list[Prompted], list[str]]:
    """Every prompt as the model's processor encodes it, and a line for each that it refuses, with the reason."""
    made: list[Prompted] = []
    faults: dict[str, str] = {}
    loaded = unbounded(loaded)
    encoder = loaded.encoder

    def of_turn(turn: Turn) -> Prompted:
        return Prompted(f"training, person {turn.person}", encoder.prompt(turn), [encoder.reply(turn.reply)])

    def of_sample(sample: Sample) -> Prompted:
        replies = [encoder.reply(text) for text in (sample.target, *sample.candidates.values())]
        if sample.raw_prompt:
            return Prompted(sample.id, encode(loaded, sample, image_folder)["input_ids"][0].tolist(), replies)
        return Prompted(sample.id, encoder.prompt(as_turn(sample, image_folder, "")), replies)

    asked = [(turn.person, partial(of_turn, turn)) for turn in turns]
    asked += [(sample.id, partial(of_sample, sample)) for sample in samples]
    for who, encode_one in asked:
        try:
            made.append(encode_one())
        except (DataError, ModelError) as error:
            faults.setdefault(str(error).partition(" for the prompt ")[0], f"{who}: {error}")
    return made, list(faults.values())


def prompts_taken(prompts: Sequence[Prompted], faults: Sequence[str]) -> CheckResult:
    """The model's processor takes every prompt with its images."""
    return result("prompts", faults, f"the processor takes all {len(prompts)}, with their images")


def tokens_known(loaded: Loaded, prompts: Iterable[Prompted]) -> CheckResult:
    """Every token of a prompt or reply, and the one that fills up rows, has a row of the model's embeddings."""
    model, tokenizer = loaded.model, loaded.encoder.processor.tokenizer
    head = model.get_output_embeddings()
    rows = min(part.weight.shape[0] for part in (model.get_input_embeddings(), head) if part is not None)
    used = {tokenizer.pad_token_id: "padding"}
    for what, prompt, replies in prompts:
        for ids in (prompt, *replies):
            if ids and max(ids) >= rows:
                used |= {number: what for number in ids if number not in used}
    faults = [
        f"the token {tokenizer.convert_ids_to_tokens(number)!r} has the id {number}, the model has {rows} rows of "
        f"embeddings ({where}); take the tokenizer that belongs to the model, or name another token in "
        "tokenizer_config.json"
        for number, where in sorted(used.items())
        if number >= rows
    ]
    return result("tokens", faults, f"all have one of the {rows} rows of embeddings")


def prompts_well_formed(loaded: Loaded, prompts: Iterable[Prompted]) -> CheckResult:
    """No prompt begins with two first tokens, and none ends in a token that ends a reply."""
    tokenizer, ends = loaded.encoder.processor.tokenizer, loaded.ends
    first = tokenizer.bos_token_id
    faults: dict[str, str] = {}
    for what, ids, _ in prompts:
        if ids and ids[-1] in ends:
            fault = f"prompts end in {tokenizer.convert_ids_to_tokens(ids[-1])!r}, which ends a reply"
            faults.setdefault(
                fault, f"{fault} (e.g. {what}): expected no such token in the post-processor of tokenizer.json"
            )
        if first is not None and _doubled(ids, first, tokenizer):
            fault = f"prompts begin with two {tokenizer.bos_token!r}"
            faults.setdefault(
                fault, f"{fault} (e.g. {what}): expected one, written by the chat template or by the tokenizer"
            )
    return result("first and last tokens", list(faults.values()), "no first token is doubled, no prompt is ended")


def _doubled(ids: Sequence[int], first: int, tokenizer: Any) -> bool:
    """Whether the second of two first tokens follows the other with nothing but blanks between them."""
    places = [place for place, number in enumerate(ids) if number == first]
    return any(not tokenizer.decode(ids[a + 1 : b]).strip() for a, b in pairwise(places))


def pixels_scaled(loaded: Loaded, turns: Mapping[Path, Turn]) -> CheckResult:
    """The pixels that the processor makes of images have the usual scale; ``turns``: one turn per image."""
    faults, lowest, highest = [], float("inf"), float("-inf")
    for path, turn in turns.items():
        loaded.encoder.prompt(turn)
        tensors = loaded.encoder.images([turn])
        parts = [tensor for name, tensor in tensors.items() if name == "pixel_values" and tensor.is_floating_point()]
        for pixels in (part for part in parts if part.numel()):
            low, high = pixels.min().item(), pixels.max().item()
            lowest, highest = min(lowest, low), max(highest, high)
            faults += [f"{path.name}: {fault}" for fault in _scale_faults(path, low, high, pixels)]
    if faults:
        images = loaded.encoder.processor.image_processor
        named = [f"{name} {getattr(images, name)}" for name in SCALE if getattr(images, name, None) is not None]
        faults.insert(0, f"processor_config.json: the scale comes from {', '.join(named) or 'settings of its own'}")
    ok = f"pixels of {len(turns)} images lie between {lowest:.3g} and {highest:.3g}" if highest >= lowest else "none"
    return result("pixels", faults, ok)


def _scale_faults(path: Path, low: float, high: float, pixels: torch.Tensor) -> Iterator[str]:
    if not torch.isfinite(pixels).all():
        yield "prepared pixels are not finite"
    elif max(-low, high) > FARTHEST:
        yield f"prepared pixels lie between {low:.4g} and {high:.4g}, expected about -3 to 3"
    elif (steps := _steps(path)) >= PLAIN_CONTRAST and not CONTRAST[0] <= (high - low) / steps <= CONTRAST[1]:
        yield f"prepared pixels lie between {low:.4g} and {high:.4g}, too close or too far apart"


def _steps(path: Path) -> int:
    low, high = zip(*open_image(path).getextrema(), strict=True)
    return int(max(high)) - int(min(low))


def of_template(loaded: Loaded) -> Iterator[CheckResult]:
    """Notes on a chat template that is met in a special way."""
    family, processor = loaded.family, loaded.encoder.processor
    if isinstance(family, ChatFamily):
        yield from (CheckResult("chat template", "note", text) for text in remarks(processor, family.mark(processor)))


TOKEN_IDS = ("eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id")
"""What of a model's file about decoding names tokens."""


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 1 << 31


def of_decoding(source: str, revision: str | None) -> Iterator[CheckResult]:
    """The model's own file about decoding can be read; a note on what of it is not used, as replies are greedy."""
    try:
        settings = GenerationConfig.from_pretrained(source, revision=revision)
    except (OSError, TypeError, ValueError) as error:
        if (Path(source) / GENERATION_FILE).exists():
            text = f"{GENERATION_FILE} cannot be read: {one_line(error)}; download it again, or remove it"
            yield CheckResult("decoding", "FAULT", text)
        return
    for name in TOKEN_IDS:
        held = getattr(settings, name, None)
        ids = held if isinstance(held, list) and name == "eos_token_id" else [held]
        if odd := [each for each in ids if each is not None and not _is_token_id(each)]:
            text = f"{GENERATION_FILE}: {name}: got {odd[0]!r}, expected the id of a token"
            yield CheckResult("decoding", "FAULT", text + (", or a list of them" if name == "eos_token_id" else ""))
    steering = [f"{k} {v}" for k, v in settings.to_diff_dict().items() if k not in SAMPLING and v]
    if steering:
        yield CheckResult(
            "decoding", "note", f"{GENERATION_FILE} sets {', '.join(steering)}: not used, replies are greedy"
        )
