"""Idefics3: a picture is cut into tiles of 169 tokens; model.pictures {do_image_splitting: false} keeps it whole."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._chat import ChatFamily


class Idefics3(ChatFamily):
    """Idefics3: SigLIP on tiles of 364 pixels and on the whole picture, pixel shuffle, Llama 3."""

    source: ClassVar[str] = "https://arxiv.org/abs/2408.12637"
    lora_targets: ClassVar[str] = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3",)
    picture_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask")
    shares_prefix: ClassVar[bool] = True
    picture_parts: ClassVar[tuple[str, ...]] = ("vision_model", "connector")


PLUGIN = Idefics3
