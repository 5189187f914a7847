"""Load a model's processor: tokenizer and image processor, with or without torchvision.

Families with a slot for videos want torchvision when they are loaded, though images need none of it. Where it is not
installed the slot is left out; everything else is the library's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from types import SimpleNamespace
from typing import Any

from transformers import AutoProcessor, ProcessorMixin
from transformers.utils import is_torchvision_available

from mllmu.core.errors import ModelError, did_you_mean

VIDEO = "video_processor"


def load_processor(source: str, revision: str | None, settings: Mapping[str, Any]) -> Any:
    """The processor of a model on disk or on the hub.

    Args:
        settings: of the image processor, over those stored with the model.

    Raises:
        ModelError: a setting that the image processor does not have.
    """
    leave_videos_out()
    processor = AutoProcessor.from_pretrained(source, revision=revision, trust_remote_code=False)
    if settings:
        processor.image_processor = change_images(processor.image_processor, settings)
        # some processors overrule their image processor
        overruled = getattr(processor, "images_kwargs", None) or {}
        processor.images_kwargs = {**overruled, **{k: v for k, v in settings.items() if k in overruled}}
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def change_images(images: Any, settings: Mapping[str, Any]) -> Any:
    """An image processor with other settings."""
    known = sorted(type(images).valid_kwargs.__annotations__)
    for name in settings:
        if name not in known:
            raise ModelError(
                f"model.image_processor.{name}: unknown setting of {type(images).__name__}.{did_you_mean(name, known)} "
                f"Settings: {', '.join(known)}."
            )
    return type(images).from_dict(images.to_dict() | dict(settings))


@cache
def leave_videos_out() -> None:
    """Without torchvision, make the library load processors without their video part; else change nothing."""
    if is_torchvision_available():
        return
    from transformers.models.smolvlm import processing_smolvlm as smolvlm

    every = ProcessorMixin.get_attributes.__func__

    def without_videos(cls: type) -> list[str]:
        return [name for name in every(cls) if name != VIDEO]

    ProcessorMixin.get_attributes = classmethod(without_videos)
    smolvlm.SmolVLMProcessor.video_processor = SimpleNamespace(num_frames=0, fps=0)
    default_to_none(smolvlm.SmolVLMProcessor, VIDEO)
    smolvlm.num2words = smolvlm.num2words or str  # spells the number of frames of a video


def default_to_none(cls: type, argument: str) -> None:
    """Give an argument of a constructor, and those behind it that have none, the default None."""
    init: Any = cls.__init__  # type: ignore[misc]
    names = [p.name for p in inspect.signature(init).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    defaults = init.__defaults__ or ()
    missing = len(names) - len(defaults) - names.index(argument)
    init.__defaults__ = (*(None,) * missing, *defaults)
