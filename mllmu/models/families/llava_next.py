"""LLaVA-NeXT (1.6): an image is cut into tiles by its shape, up to about 2,900 tokens."""

from mllmu.models.families._chat import ChatFamily


class LlavaNext(ChatFamily):
    """LLaVA-NeXT: CLIP on the whole image and on up to four tiles, projector, Mistral, Vicuna or Llama."""

    source = "https://llava-vl.github.io/blog/2024-01-30-llava-next/"
    model_types = ("llava_next",)
    image_inputs = ("pixel_values", "image_sizes")
    shares_prefix = True
