"""InternVL: an image is cut into tiles of 256 tokens; model.image_processor {max_patches: 1} keeps it whole."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._chat import ChatFamily


class InternVL(ChatFamily):
    """InternVL 2.5, 3 and 3.5 in the library's own format (repositories ending in -hf): InternViT, Qwen2 or Llama."""

    source: ClassVar[str] = "https://arxiv.org/abs/2504.10479"
    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    shares_prefix: ClassVar[bool] = True
    image_parts: ClassVar[tuple[str, ...]] = ("vision_tower", "multi_modal_projector")


PLUGIN = InternVL
