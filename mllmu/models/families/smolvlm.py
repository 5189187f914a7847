"""SmolVLM: Idefics3 for small machines; model.image_processor {do_image_splitting: false} keeps an image whole."""

from mllmu.models.families.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """SmolVLM (256M to 2.2B): SigLIP on tiles and on the whole image, pixel shuffle, SmolLM2."""

    source = "https://arxiv.org/abs/2504.05299"
    model_types = ("smolvlm",)
