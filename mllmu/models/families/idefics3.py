"""Idefics3: tiles of 169 tokens per image; model.image_processor {do_image_splitting: false} keeps it whole."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._chat import ChatFamily


class Idefics3(ChatFamily):
    """Idefics3: SigLIP on tiles of 364 pixels and on the whole image, pixel shuffle, Llama 3."""

    source: ClassVar[str] = "https://arxiv.org/abs/2408.12637"
    lora_targets: ClassVar[str] = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3",)
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask")
    shares_prefix: ClassVar[bool] = True
    image_parts: ClassVar[tuple[str, ...]] = ("vision_model", "connector")


PLUGIN = Idefics3
