"""Put a prompt to a model as it is written: one text, its images, nothing escaped.

The published evaluator does it this way, so its replies are reproduced this way: the processor gets the whole text,
the model writes greedily, and the reply is cut out of the decoded dialogue. Prompts of a set begin with the same
examples, up to five images; where features of images are known these are read once, and the replies are the same.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from mllmu.core.errors import ModelError
from mllmu.core.parsing import after_marker
from mllmu.core.records import Response, Sample
from mllmu.models.encoding import EncodedPrompt, Encoder, as_turn, grouped, image_features
from mllmu.models.families import Turn, open_image
from mllmu.models.loading import Loaded

_CUT = 2
"""The published evaluator leaves out the first two tokens of a dialogue before it decodes it."""


@torch.inference_mode()
def answer(
    loaded: Loaded,
    samples: Sequence[Sample],
    image_folder: Path,
    system_prompt: str,
    read_and_write: Callable[..., tuple[list[list[int]], list[float]]] | None,
) -> list[Response]:
    """Responses to samples whose prompts are the whole text.

    Args:
        system_prompt: text put before the prompt, on a line of its own; empty for none.
        read_and_write: writes replies to prompts whose common beginnings are read once, see
            :func:`mllmu.models.engine.respond.read_and_write`; None: one prompt after the other.

    Raises:
        ModelError: a prompt does not fit the context; names the sample.
    """
    prompts = raw_prompts(loaded, samples, image_folder, system_prompt) if read_and_write else None
    if prompts is None or read_and_write is None:
        return [_answer_alone(loaded, sample, image_folder, system_prompt) for sample in samples]
    end = loaded.model.generation_config.eos_token_id
    ends = frozenset(end if isinstance(end, list) else [end]) - {None}
    lengths = (len(prompt.ids) for prompt in prompts)
    limits = [loaded.encoder.room(n, sample.max_new_tokens) for n, sample in zip(lengths, samples, strict=True)]
    written, _ = read_and_write(loaded, prompts, limits, ends)
    return [
        _response(loaded, sample, [*prompt.ids, *reply], len(prompt.ids))
        for sample, prompt, reply in zip(samples, prompts, written, strict=True)
    ]


def _answer_alone(loaded: Loaded, sample: Sample, image_folder: Path, system_prompt: str) -> Response:
    inputs = encode(loaded, sample, image_folder, system_prompt=system_prompt).to(loaded.device)
    length = inputs["input_ids"].shape[1]
    limit = loaded.encoder.room(length, sample.max_new_tokens)
    ids = loaded.model.generate(**inputs, max_new_tokens=limit, do_sample=False)[0]
    return _response(loaded, sample, ids.tolist(), length)


def _response(loaded: Loaded, sample: Sample, ids: Sequence[int], length: int) -> Response:
    """The reply in a dialogue whose first ``length`` tokens are the prompt."""
    ended = len(ids) > length and ids[-1] in loaded.ends
    text = reply_text(loaded.encoder, ids)
    return Response(sample_id=sample.id, text=text, num_tokens=len(ids) - length - ended, finished=ended)


def reply_text(encoder: Encoder, ids: Sequence[int]) -> str:
    """The reply in the tokens of a whole dialogue, cut out of it as the published evaluator does."""
    return after_marker(encoder.processor.decode(ids[_CUT:], skip_special_tokens=True))


def raw_prompts(
    loaded: Loaded, samples: Sequence[Sample], image_folder: Path, system_prompt: str
) -> list[EncodedPrompt] | None:
    """The tokens of prompts, with those of an image in the place of its mark, as the processor would put them.

    The processor is compared with for one prompt of every task; if it gives other tokens, the result is None.
    """
    prompts: list[EncodedPrompt] = []
    checked: set[str] = set()

    def by_processor(sample: Sample) -> list[int]:
        ids: list[int] = encode(loaded, sample, image_folder, system_prompt=system_prompt)["input_ids"][0].tolist()
        return ids

    for sample in samples:
        turn = as_turn(sample, image_folder, system_prompt)
        ids = _with_images(loaded, turn) if turn.images else by_processor(sample)
        if ids is None or (turn.images and sample.task not in checked and ids != by_processor(sample)):
            return None
        if turn.images:
            checked.add(sample.task)
        prompts.append(EncodedPrompt(ids, turn))
    return prompts


def _with_images(loaded: Loaded, turn: Turn) -> list[int] | None:
    processor = loaded.encoder.processor
    if image_features(loaded, [turn.images]) is None:
        return None
    shown = [tokens for image in turn.images if (tokens := loaded.encoder.image_ids(image))]
    ids: list[int] = processor.tokenizer(turn.prompt)["input_ids"]
    mark = processor.tokenizer.convert_tokens_to_ids(loaded.family.mark(processor))
    if not ids.count(mark) == len(shown) == len(turn.images):
        return None
    images = iter(shown)
    return [token for one in ids for token in (next(images) if one == mark else [one])]


def encode(loaded: Loaded, sample: Sample, image_folder: Path, *, system_prompt: str = "") -> Any:
    """The model's inputs for one sample, checked against the context."""
    processor, turn = loaded.encoder.processor, as_turn(sample, image_folder, system_prompt)
    if turn.images:
        images = [open_image(image) for image in turn.images]
        inputs = processor(images=images, text=turn.prompt, return_tensors="pt")
    elif sample.task == "cloze":
        inputs = processor(images=None, text=turn.prompt, return_tensors="pt")
    else:
        inputs = processor.tokenizer(turn.prompt, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    if length > loaded.encoder.context:
        raise ModelError(
            f"sample {sample.id}: the prompt has {length} tokens ({len(turn.images)} images), the model's context is "
            f"{loaded.encoder.context}. Expected a prompt that fits; name fewer people for the examples of "
            f"{sample.task} (--shots, or evaluate.protocol.shots)."
        )
    return inputs


def check_longest(loaded: Loaded, samples: Sequence[Sample], image_folder: Path) -> None:
    """Encode the longest prompt of every task, modality and number of examples, before hours of work.

    Raises:
        ModelError: it does not fit the context; names the sample.
    """
    groups = grouped(samples, lambda sample: (sample.task, sample.modality, len(sample.examples)))
    for alike in groups.values():
        encode(loaded, max(alike, key=lambda sample: len(sample.prompt)), image_folder)
