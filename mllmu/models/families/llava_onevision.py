"""LLaVA-OneVision: an image is cut into tiles by its shape, up to about 7,300 tokens."""

from mllmu.models.families._chat import ChatFamily


class LlavaOnevision(ChatFamily):
    """LLaVA-OneVision: SigLIP on the whole image and on its tiles, projector, Qwen2."""

    source = "https://arxiv.org/abs/2408.03326"
    model_types = ("llava_onevision",)
    image_inputs = ("pixel_values", "image_sizes", "batch_num_images")
    shares_prefix = True
