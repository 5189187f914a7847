"""LLaVA-1.5 and everything with its architecture, the embedded tiny model included."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families import Family, Turn


class Llava(Family):
    """LLaVA-1.5: CLIP vision tower, two-layer projector, Llama; prompt ``USER: <image>\\n... ASSISTANT:``."""

    source: ClassVar[str] = "https://arxiv.org/abs/2310.03744"
    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    image_mark: ClassVar[str] = "<image>"

    def render(self, turn: Turn) -> str:
        system = f"{turn.system}\n" if turn.system else ""
        image = "<image>\n" if turn.image is not None else ""
        return f"{system}USER: {image}{turn.prompt}\nASSISTANT:"


PLUGIN = Llava
