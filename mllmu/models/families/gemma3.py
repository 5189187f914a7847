"""Gemma 3: an image becomes 256 tokens, which see each other."""

from typing import Any

from torch import Tensor

from mllmu.models.engine.visibility import runs
from mllmu.models.families import windowed
from mllmu.models.families._chat import ChatFamily


class Gemma3(ChatFamily):
    """Gemma 3 (4B and up): SigLIP, pooled to 256 tokens an image, which see each other; local and global attention.

    In a packed sequence each kind of layer gets a mask of its own.
    """

    source = "https://arxiv.org/abs/2503.19786"
    model_types = ("gemma3",)
    shares_prefix = True
    looks_ahead = "image"
    image_parts = ("vision_tower", "multi_modal_projector")

    def mark(self, processor: Any) -> str:
        return str(processor.boi_token)

    def spelled(self, text: str, processor: Any) -> str:
        mark = self.mark(processor)
        return text.replace(mark, f"\n\n{mark}\n\n")

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        return {"token_type_ids": (ids_BT == processor.tokenizer.image_token_id).long()}

    def packed_masks(self, model: Any, kin_BTT: Tensor, index_BT: Tensor, is_image_BT: Tensor) -> dict[str, Tensor]:
        image_BT = runs(is_image_BT)
        image_BTT = (image_BT[:, :, None] == image_BT[:, None, :]) & is_image_BT[:, :, None] & kin_BTT
        windows = {"full_attention": None, "sliding_attention": model.config.get_text_config().sliding_window}
        return windowed(kin_BTT.tril() | image_BTT, index_BT, windows)
