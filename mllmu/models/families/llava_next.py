"""LLaVA-NeXT (1.6): an image is cut into tiles by its shape, up to about 2,900 tokens."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._chat import ChatFamily


class LlavaNext(ChatFamily):
    """LLaVA-NeXT: CLIP on the whole image and on up to four tiles, projector, Mistral, Vicuna or Llama."""

    source: ClassVar[str] = "https://llava-vl.github.io/blog/2024-01-30-llava-next/"
    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")
    shares_prefix: ClassVar[bool] = True


PLUGIN = LlavaNext
