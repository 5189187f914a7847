"""Processors that need more than loading: without torchvision, with other settings of the image processor, or whose
tokenizer names no token that ends a reply.

Families with a slot for videos want torchvision when they are loaded, though images need none of it. Where it is not
installed the slot is left out; everything else is the library's own.
"""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, GenerationConfig, ProcessorMixin
from transformers.utils import is_torchvision_available

from mllmu.core.errors import ModelError, did_you_mean

VIDEO = "video_processor"


def change_images(processor: Any, settings: Mapping[str, Any]) -> None:
    """Give a processor an image processor with other settings.

    Raises:
        ModelError: a setting that the image processor does not have.
    """
    images = processor.image_processor
    known = sorted(type(images).valid_kwargs.__annotations__)
    for name in settings:
        if name not in known:
            raise ModelError(
                f"model.image_processor.{name}: unknown setting of {type(images).__name__}.{did_you_mean(name, known)} "
                f"Settings: {', '.join(known)}."
            )
    processor.image_processor = type(images).from_dict(images.to_dict() | dict(settings))
    # some processors overrule their image processor
    overruled = getattr(processor, "images_kwargs", None) or {}
    processor.images_kwargs = {**overruled, **{k: v for k, v in settings.items() if k in overruled}}


@cache
def leave_videos_out() -> bool:
    """Make the library load processors without their video part; False, and nothing changed, with torchvision."""
    if is_torchvision_available():
        return False
    from transformers.models.smolvlm import processing_smolvlm as smolvlm

    every = ProcessorMixin.get_attributes.__func__

    def without_videos(cls: type) -> list[str]:
        return [name for name in every(cls) if name != VIDEO]

    ProcessorMixin.get_attributes = classmethod(without_videos)
    smolvlm.SmolVLMProcessor.video_processor = SimpleNamespace(num_frames=0, fps=0)
    default_to_none(smolvlm.SmolVLMProcessor, VIDEO)
    smolvlm.num2words = smolvlm.num2words or str  # spells the number of frames of a video
    return True


def default_to_none(cls: type, argument: str) -> None:
    """Give an argument of a constructor, and those behind it that have none, the default None."""
    init: Any = cls.__init__  # type: ignore[misc]
    names = [p.name for p in inspect.signature(init).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    defaults = init.__defaults__ or ()
    missing = len(names) - len(defaults) - names.index(argument)
    init.__defaults__ = (*(None,) * missing, *defaults)


def name_ends(tokenizer: Any, source: str, revision: str | None) -> None:
    """Give a tokenizer the end of a reply that the model itself names, and that as padding, where it names none.

    Raises:
        ModelError: neither generation_config.json nor config.json names a token that ends a reply.
    """
    if tokenizer.eos_token is None:
        tokenizer.eos_token = _end_of_model(tokenizer, source, revision)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def _end_of_model(tokenizer: Any, source: str, revision: str | None) -> str:
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    named = [config, config.get_text_config()]
    with suppress(OSError):  # there is no such file
        named.insert(0, GenerationConfig.from_pretrained(source, revision=revision))
    ends = (getattr(each, "eos_token_id", None) for each in named)
    number = next((end[0] if isinstance(end, list) else end for end in ends if end not in (None, [])), None)
    token = tokenizer.convert_ids_to_tokens(number) if isinstance(number, int) else None
    if not token:
        raise ModelError(
            f"model.path: the tokenizer of '{source}' names no token that ends a reply (eos_token), and neither does "
            f"the model (eos_token_id: {number}). Expected eos_token in tokenizer_config.json; take the file from the "
            "model's hub page."
        )
    return str(token)


def torchvision_hint(error: Exception) -> str:
    """Advice for a processor that does not work on images alone."""
    if "torchvision" not in str(error).lower():
        return ""
    return "This model's processor needs torchvision: install the version that belongs to your torch. "
