"""Idefics2: an image becomes 64 tokens, whatever its size."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from mllmu.models.families._chat import ChatFamily


class Idefics2(ChatFamily):
    """Idefics2: SigLIP with a perceiver of 64 latents, Mistral; images whole, not split, as in the benchmark."""

    source: ClassVar[str] = "https://arxiv.org/abs/2405.02246"
    lora_targets: ClassVar[str] = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types: ClassVar[tuple[str, ...]] = ("idefics2",)
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask")
    image_settings: ClassVar[dict[str, Any]] = {"do_image_splitting": False}
    shares_prefix: ClassVar[bool] = True
    image_parts: ClassVar[tuple[str, ...]] = ("vision_model", "connector")

    def spelled(self, text: str, processor: Any) -> str:
        return re.sub(rf"{re.escape(self.mark(processor))}(?=[^\s<])", r"\g<0> ", text)


PLUGIN = Idefics2
