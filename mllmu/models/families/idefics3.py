"""Idefics3: tiles of 169 tokens per image; model.image_processor {do_image_splitting: false} keeps it whole."""

from mllmu.models.families._chat import ChatFamily


class Idefics3(ChatFamily):
    """Idefics3: SigLIP on tiles of 364 pixels and on the whole image, pixel shuffle, Llama 3."""

    source = "https://arxiv.org/abs/2408.12637"
    lora_targets = r".*text_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types = ("idefics3",)
    image_inputs = ("pixel_values", "pixel_attention_mask")
    image_parts = ("vision_model", "connector")
    shares_prefix = True
