"""LLaVA-1.5 and everything with its architecture, the embedded tiny model included."""

from __future__ import annotations

from typing import Any, ClassVar

from mllmu.models.families import Family, Turn


class Llava(Family):
    """LLaVA-1.5: CLIP vision tower, two-layer projector, Llama; prompt ``USER: <image>\\n... ASSISTANT:``."""

    source: ClassVar[str] = "https://arxiv.org/abs/2310.03744"
    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    shares_prefix: ClassVar[bool] = True
    image_parts: ClassVar[tuple[str, ...]] = ("vision_tower", "multi_modal_projector")

    def render(self, turn: Turn, processor: Any) -> str:
        system = f"{turn.system}\n" if turn.system else ""
        image = f"{self.mark(processor)}\n" if turn.image is not None else ""
        return f"{system}USER: {image}{turn.prompt}\nASSISTANT:"


PLUGIN = Llava
