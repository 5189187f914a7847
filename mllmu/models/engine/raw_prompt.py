"""Put a prompt to a model as it is written: one text, its images, nothing escaped.

The published evaluator does it this way, so its replies are reproduced this way: the processor gets the whole text,
the model writes greedily, and the reply is cut out of the decoded dialogue. Prompts of a set begin with the same
examples, up to five images; where features of images are known these are read once, and the replies are the same.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from mllmu.core.errors import ModelError
from mllmu.core.parsing import after_marker
from mllmu.core.records import Response, Sample
from mllmu.models.encoding import EncodedPrompt, image_features
from mllmu.models.families import Turn, open_image
from mllmu.models.loading import Loaded

OpenImage = Callable[[str], Image]
_CUT = 2
"""The published evaluator leaves out the first two tokens of a dialogue before it decodes it."""


def opener(image_folder: Path) -> OpenImage:
    """Opens images by their path in a folder."""
    return lambda name: open_image(image_folder / name)


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
        read_and_write: writes replies to prompts whose common beginnings are read once, see
            :func:`mllmu.models.engine.respond.read_and_write`; None: one prompt after the other.
    """
    prompts = raw_prompts(loaded, samples, image_folder, system_prompt) if read_and_write else None
    if prompts is None or read_and_write is None:
        return list(respond_raw(loaded, samples, opener(image_folder), system_prompt=system_prompt))
    end = loaded.model.generation_config.eos_token_id
    ends = frozenset(end if isinstance(end, list) else [end]) - {None}
    written, _ = read_and_write(loaded, prompts, [sample.max_new_tokens for sample in samples], ends)
    return [
        _response(loaded, sample, [*prompt.ids, *reply], len(prompt.ids))
        for sample, prompt, reply in zip(samples, prompts, written, strict=True)
    ]


@torch.inference_mode()
def respond_raw(
    loaded: Loaded, samples: Iterable[Sample], open_image: OpenImage, *, system_prompt: str = ""
) -> Iterator[Response]:
    """Reply to samples whose prompts are the whole text, one after the other.

    Args:
        open_image: gives an image by its name in the samples.
        system_prompt: text put before the prompt, on a line of its own; empty for none.

    Raises:
        ModelError: a prompt does not fit the context; names the sample.
    """
    for sample in samples:
        inputs = encode(loaded, sample, open_image, system_prompt=system_prompt).to(loaded.device)
        ids = loaded.model.generate(**inputs, max_new_tokens=sample.max_new_tokens, do_sample=False)[0]
        yield _response(loaded, sample, ids.tolist(), inputs["input_ids"].shape[1])


def _response(loaded: Loaded, sample: Sample, ids: Sequence[int], length: int) -> Response:
    """The reply in a dialogue whose first ``length`` tokens are the prompt."""
    written = len(ids) - length
    ended = written > 0 and ids[-1] in loaded.ends
    text = loaded.encoder.processor.decode(ids[_CUT:], skip_special_tokens=True)
    return Response(sample_id=sample.id, text=after_marker(text), num_tokens=written - ended, finished=ended)


def raw_prompts(
    loaded: Loaded, samples: Sequence[Sample], image_folder: Path, system_prompt: str
) -> list[EncodedPrompt] | None:
    """The tokens of prompts, with those of an image in the place of its mark, as the processor would put them.

    The processor is compared with for one prompt of every task; if it gives other tokens, the result is None.
    """
    prompts: list[EncodedPrompt] = []
    checked: set[str] = set()
    for sample in samples:
        turn = _as_turn(sample, image_folder, system_prompt)
        ids = _with_images(loaded, turn) if turn.images else None
        if turn.images and ids is None:
            return None
        if ids is None or sample.task not in checked:
            whole = encode(loaded, sample, opener(image_folder), system_prompt=system_prompt)["input_ids"][0].tolist()
            if turn.images and ids != whole:
                return None
            if turn.images:
                checked.add(sample.task)
            ids = whole
        prompts.append(EncodedPrompt(ids, turn))
    return prompts


def _as_turn(sample: Sample, image_folder: Path, system_prompt: str) -> Turn:
    """The images of a raw prompt; its text holds system prompt and examples already."""
    has_image = bool(sample.image)
    before = tuple(
        Turn(prompt=one.prompt, reply=one.reply, image=image_folder / one.image if has_image else None)
        for one in sample.examples
    )
    text = f"{system_prompt}\n{sample.prompt}" if system_prompt else sample.prompt
    image = image_folder / sample.image if has_image else None
    return Turn(prompt=text, image=image, system=system_prompt, before=before)


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


def image_names(sample: Sample) -> list[str]:
    """The images of a raw prompt, those of its examples first."""
    return [*(example.image for example in sample.examples), sample.image] if sample.image else []


def encode(loaded: Loaded, sample: Sample, open_image: OpenImage, *, system_prompt: str = "") -> Any:
    """The model's inputs for one sample, checked against the context."""
    processor = loaded.encoder.processor
    text = f"{system_prompt}\n{sample.prompt}" if system_prompt else sample.prompt
    names = image_names(sample)
    if names:
        inputs = processor(images=[open_image(name) for name in names], text=text, return_tensors="pt")
    elif sample.task == "cloze":
        inputs = processor(images=None, text=text, return_tensors="pt")
    else:
        inputs = processor.tokenizer(text, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    if length > loaded.encoder.context:
        raise ModelError(
            f"sample {sample.id}: the prompt has {length} tokens ({len(names)} images), the model's context is "
            f"{loaded.encoder.context}. Expected a prompt that fits; name fewer people for the examples of "
            f"{sample.task} (--shots, or evaluate.protocol.shots)."
        )
    return inputs


def check_longest(loaded: Loaded, samples: Sequence[Sample], open_image: OpenImage) -> None:
    """Encode the longest prompt of every task, modality and number of examples, before hours of work.

    Raises:
        ModelError: it does not fit the context; names the sample.
    """
    longest: dict[tuple[str, str, int], Sample] = {}
    for sample in samples:
        category = (sample.task, sample.modality, len(sample.examples))
        if category not in longest or len(sample.prompt) > len(longest[category].prompt):
            longest[category] = sample
    for sample in longest.values():
        encode(loaded, sample, open_image)
