"""Qwen2-VL: an image keeps its shape and becomes one token per 28 x 28 pixels."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._qwen import QwenFamily


class Qwen2VL(QwenFamily):
    """Qwen2-VL: own vision tower, Qwen2; images at their own resolution."""

    source: ClassVar[str] = "https://arxiv.org/abs/2409.12191"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl",)
    image_parts: ClassVar[tuple[str, ...]] = ("visual",)


PLUGIN = Qwen2VL
