"""Idefics2: an image becomes 64 tokens, whatever its size."""

import re
from typing import Any, ClassVar

from mllmu.models.families.idefics3 import Idefics3


class Idefics2(Idefics3):
    """Idefics2: SigLIP with a perceiver of 64 latents, Mistral; images whole, not split, as in the benchmark."""

    source = "https://arxiv.org/abs/2405.02246"
    model_types = ("idefics2",)
    hub_names = ("HuggingFaceM4/idefics2",)
    image_settings: ClassVar[dict[str, Any]] = {"do_image_splitting": False}
    published_shots: ClassVar[dict[str, int]] = {"cloze": 1}
    published_letter_tokens = 5

    def spelled(self, text: str, processor: Any) -> str:
        return re.sub(rf"{re.escape(self.mark(processor))}(?=[^\s<])", r"\g<0> ", text)
