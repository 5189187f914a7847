"""LLaVA-OneVision: an image is cut into tiles by its shape, up to about 7,300 tokens."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._chat import ChatFamily


class LlavaOnevision(ChatFamily):
    """LLaVA-OneVision: SigLIP on the whole image and on its tiles, projector, Qwen2."""

    source: ClassVar[str] = "https://arxiv.org/abs/2408.03326"
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes", "batch_num_images")
    shares_prefix: ClassVar[bool] = True


PLUGIN = LlavaOnevision
