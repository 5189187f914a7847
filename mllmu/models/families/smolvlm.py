"""SmolVLM: Idefics3's plan for small machines; model.pictures {do_image_splitting: false} keeps a picture whole."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._chat import ChatFamily


class SmolVLM(ChatFamily):
    """SmolVLM (256M to 2.2B): SigLIP on tiles and on the whole picture, pixel shuffle, SmolLM2."""

    source: ClassVar[str] = "https://arxiv.org/abs/2504.05299"
    lora_targets: ClassVar[str] = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)
    picture_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask")
    shares_prefix: ClassVar[bool] = True
    picture_parts: ClassVar[tuple[str, ...]] = ("vision_model", "connector")


PLUGIN = SmolVLM
