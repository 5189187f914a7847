"""What the Qwen-VL generations have in common: flattened patches, and positions on three axes."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from mllmu.models.families._chat import ChatFamily


class QwenFamily(ChatFamily):
    """Base of the Qwen-VL families: patches [sum of patches, values] and a grid [pictures, 3] of time, height, width.

    The model counts positions along time, height and width, and takes the tokens of pictures for that from
    ``mm_token_type_ids``. So ``shares_prefix`` is False: positions are no plain counts.
    """

    picture_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw")

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        del labels_BT
        return {"mm_token_type_ids": (ids_BT == processor.image_token_id).int()}
