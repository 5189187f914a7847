"""What the Qwen-VL generations have in common: flattened patches, and positions on three axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from mllmu.models.families._chat import ChatFamily

AXES = 3
"""Time, height and width."""


class QwenFamily(ChatFamily):
    """Base of the Qwen-VL families: patches [sum of patches, values] and a grid [images, 3] of time, height, width.

    The model counts positions along time, height and width, and takes the tokens of images for that from
    ``mm_token_type_ids``. Where tokens are shared, every one is told where it stands on all three axes.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw")
    shares_prefix: ClassVar[bool] = True

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        del labels_BT
        return {"mm_token_type_ids": (ids_BT == processor.image_token_id).int()}

    def positions(
        self, model: Any, ids: Sequence[int], images: Callable[[], Mapping[str, Tensor]]
    ) -> Sequence[Sequence[int]]:
        ids_1T = torch.tensor([list(ids)])
        kinds_1T = (ids_1T == model.config.image_token_id).int()
        if not kinds_1T.any():
            return [range(len(ids))] * AXES
        grid = images()["image_grid_thw"]
        positions_A1T = model.model.get_rope_index(ids_1T, mm_token_type_ids=kinds_1T, image_grid_thw=grid)[0]
        return [axis[0].tolist() for axis in positions_A1T]
