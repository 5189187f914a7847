"""Qwen3-VL: an image keeps its shape and becomes one token per 32 x 32 pixels."""

from __future__ import annotations

from typing import ClassVar

from mllmu.models.families._qwen import QwenFamily


class Qwen3VL(QwenFamily):
    """Qwen3-VL: vision features enter several layers of Qwen3; images at their own resolution."""

    source: ClassVar[str] = "https://arxiv.org/abs/2511.21631"
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)


PLUGIN = Qwen3VL
