"""LLaVA's architecture around a language model that keeps a chat template of its own, as the embedded model smol."""

from mllmu.models.families._chat import ChatFamily


class LlavaChat(ChatFamily):
    """CLIP vision tower, two-layer projector, any Llama; prompts are written by the processor's chat template.

    The library's model type is ``llava``, which says nothing of the prompts. A model folder names this family by the
    key ``mllmu_family: llava_chat`` in its ``config.json``, a recipe by ``model.family``.
    """

    source = "https://arxiv.org/abs/2310.03744"
    model_types = ("llava_chat",)
    image_parts = ("vision_tower", "multi_modal_projector")
    shares_prefix = True
