"""Qwen2.5-VL: an image keeps its shape and becomes one token per 28 x 28 pixels."""

from mllmu.models.families.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: own vision tower with windowed attention, Qwen2.5; images at their own resolution."""

    source = "https://arxiv.org/abs/2502.13923"
    model_types = ("qwen2_5_vl",)
