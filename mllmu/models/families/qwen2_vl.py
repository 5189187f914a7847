"""Qwen2-VL: an image keeps its shape and becomes one token per 28 x 28 pixels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mllmu.models.families._chat import ChatFamily

AXES = 3
"""Time, height and width."""


class Qwen2VL(ChatFamily):
    """Qwen2-VL: own vision tower, Qwen2; images at their own resolution.

    The processor makes patches [sum of patches, values] and a grid [images, 3] of time, height, width. The model counts
    positions along time, height and width, and takes the tokens of images for that from ``mm_token_type_ids``. Where
    tokens are shared, each one is given its position on all three axes.
    """

    source = "https://arxiv.org/abs/2409.12191"
    model_types = ("qwen2_vl",)
    image_inputs = ("pixel_values", "image_grid_thw")
    image_parts: ClassVar[tuple[str, ...]] = ("visual",)
    shares_prefix = True

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        return {"mm_token_type_ids": (ids_BT == processor.image_token_id).int()}

    def positions(
        self, model: Any, ids: Sequence[int], images: Callable[[], Mapping[str, Tensor]]
    ) -> Sequence[Sequence[int]] | None:
        ids_1T = torch.tensor([list(ids)])
        types_1T = (ids_1T == model.config.image_token_id).int()
        if not types_1T.any():
            return [range(len(ids))] * AXES
        grid = images()["image_grid_thw"]
        positions_A1T = model.model.get_rope_index(ids_1T, mm_token_type_ids=types_1T, image_grid_thw=grid)[0]
        return [axis[0].tolist() for axis in positions_A1T]
