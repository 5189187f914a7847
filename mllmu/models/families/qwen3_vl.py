"""Qwen3-VL: an image keeps its shape and becomes one token per 32 x 32 pixels."""

from mllmu.models.families.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """Qwen3-VL: vision features enter several layers of Qwen3; images at their own resolution."""

    source = "https://arxiv.org/abs/2511.21631"
    model_types = ("qwen3_vl",)
    image_parts = ()
