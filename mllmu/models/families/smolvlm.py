"""SmolVLM: Idefics3 for small machines; model.image_processor {do_image_splitting: false} keeps an image whole."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._chat import ChatFamily


class SmolVLM(ChatFamily):
    """SmolVLM (256M to 2.2B): SigLIP on tiles and on the whole image, pixel shuffle, SmolLM2."""

    source: ClassVar[str] = "https://arxiv.org/abs/2504.05299"
    lora_targets: ClassVar[str] = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask")
    shares_prefix: ClassVar[bool] = True
    image_parts: ClassVar[tuple[str, ...]] = ("vision_model", "connector")


PLUGIN = SmolVLM
