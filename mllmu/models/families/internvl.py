"""InternVL: an image is cut into tiles of 256 tokens; model.image_processor {max_patches: 1} keeps it whole."""

from mllmu.models.families._chat import ChatFamily


class InternVL(ChatFamily):
    """InternVL 2.5, 3 and 3.5 in the library's own format (repositories ending in -hf): InternViT, Qwen2 or Llama."""

    source = "https://arxiv.org/abs/2504.10479"
    model_types = ("internvl",)
    image_parts = ("vision_tower", "multi_modal_projector")
    shares_prefix = True
