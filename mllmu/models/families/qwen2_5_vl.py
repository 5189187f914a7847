"""Qwen2.5-VL: an image keeps its shape and becomes one token per 28 x 28 pixels."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._qwen import QwenFamily


class Qwen25VL(QwenFamily):
    """Qwen2.5-VL: own vision tower with windowed attention, Qwen2.5; images at their own resolution."""

    source: ClassVar[str] = "https://arxiv.org/abs/2502.13923"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl",)
    image_parts: ClassVar[tuple[str, ...]] = ("visual",)


PLUGIN = Qwen25VL
