"""Put a prompt to a model as it is written: one text, its pictures, nothing escaped, batched or shared.

The published evaluator does it this way, so its replies are reproduced this way: the processor gets the whole text,
the model writes greedily, and the reply is cut out of the decoded dialogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL.Image import Image

from mllmu.errors import ModelError
from mllmu.evaluation.parsing import after_marker
from mllmu.models.loading import Loaded
from mllmu.records import Response, Sample

OpenPicture = Callable[[str], Image]
_CUT = 2
"""The published evaluator leaves out the first two tokens of a dialogue before it decodes it."""


@torch.inference_mode()
def respond_literally(
    loaded: Loaded, samples: Iterable[Sample], open_picture: OpenPicture, *, guard: str = ""
) -> Iterator[Response]:
    """Reply to samples whose prompts are the whole text, one after the other.

    Args:
        open_picture: gives a picture by the name the samples call it.
        guard: text put before the prompt, on a line of its own; empty for none.

    Raises:
        ModelError: a prompt does not fit the context; names the sample.
    """
    for sample in samples:
        inputs = encode(loaded, sample, open_picture, guard=guard).to(loaded.device)
        ids = loaded.model.generate(**inputs, max_new_tokens=sample.max_new_tokens, do_sample=False)[0]
        written = ids[inputs["input_ids"].shape[1] :].tolist()
        ended = bool(written) and written[-1] in loaded.ends
        text = loaded.encoder.processor.decode(ids[_CUT:], skip_special_tokens=True)
        yield Response(sample_id=sample.id, text=after_marker(text), num_tokens=len(written) - ended, finished=ended)


def encode(loaded: Loaded, sample: Sample, open_picture: OpenPicture, *, guard: str = "") -> Any:
    """The model's inputs for one sample, checked against the context."""
    processor = loaded.encoder.processor
    text = f"{guard}\n{sample.prompt}" if guard else sample.prompt
    names = [*(example.image for example in sample.examples), sample.image] if sample.image else []
    if names:
        inputs = processor(images=[open_picture(name) for name in names], text=text, return_tensors="pt")
    elif sample.task == "cloze":
        inputs = processor(images=None, text=text, return_tensors="pt")
    else:
        inputs = processor.tokenizer(text, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    if length > loaded.encoder.context:
        raise ModelError(
            f"sample {sample.id}: the prompt has {length} tokens ({len(names)} pictures), the model's context is "
            f"{loaded.encoder.context}. Expected a prompt that fits; name fewer people for the examples of "
            f"{sample.task} (--shots, or evaluate.protocol.shots)."
        )
    return inputs


def check_longest(loaded: Loaded, samples: Sequence[Sample], open_picture: OpenPicture) -> None:
    """Encode the longest prompt of every kind, so that one that does not fit is found before hours of work.

    Raises:
        ModelError: it does not fit the context; names the sample.
    """
    longest: dict[tuple[str, str, int], Sample] = {}
    for sample in samples:
        kind = (sample.task, sample.modality, len(sample.examples))
        if kind not in longest or len(sample.prompt) > len(longest[kind].prompt):
            longest[kind] = sample
    for sample in longest.values():
        encode(loaded, sample, open_picture)
