"""LLaVA-1.5 and everything with its architecture, the embedded tiny model included."""

from typing import Any

from mllmu.models.families import Family, Turn


class Llava(Family):
    """LLaVA-1.5: CLIP vision tower, two-layer projector, Llama; prompt ``USER: <image>\\n... ASSISTANT:``."""

    source = "https://arxiv.org/abs/2310.03744"
    model_types = ("llava",)
    image_parts = ("vision_tower", "multi_modal_projector")
    shares_prefix = True

    def render(self, turn: Turn, processor: Any) -> str:
        system = f"{turn.system}\n" if turn.system else ""
        image = f"{self.mark(processor)}\n" if turn.image is not None else ""
        return f"{system}USER: {image}{turn.prompt}\nASSISTANT:"
