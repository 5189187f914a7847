"""Gemma 3: an image becomes 256 tokens, which see each other."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from mllmu.models.families._chat import ChatFamily
from mllmu.models.families._masks import Layout


class Gemma3(ChatFamily):
    """Gemma 3 (4B and up): SigLIP, pooled to 256 tokens an image, which see each other; local and global attention.

    In a packed sequence each kind of layer gets a mask of its own.
    """

    source: ClassVar[str] = "https://arxiv.org/abs/2503.19786"
    model_types: ClassVar[tuple[str, ...]] = ("gemma3",)
    shares_prefix: ClassVar[bool] = True
    looks_ahead: ClassVar[Literal["", "image", "prompt"]] = "image"
    image_parts: ClassVar[tuple[str, ...]] = ("vision_tower", "multi_modal_projector")

    def mark(self, processor: Any) -> str:
        return str(processor.boi_token)

    def spelled(self, text: str, processor: Any) -> str:
        mark = self.mark(processor)
        return text.replace(mark, f"\n\n{mark}\n\n")

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        del labels_BT
        return {"token_type_ids": (ids_BT == processor.tokenizer.image_token_id).long()}

    def packed_masks(self, model: Any, layout: Layout) -> dict[str, Tensor]:
        earlier_BTT, image_BTT = layout.causal(), layout.has_image()
        near_BTT = layout.near(model.config.get_text_config().sliding_window)
        return {
            "full_attention": earlier_BTT | image_BTT,
            "sliding_attention": (earlier_BTT & near_BTT) | image_BTT,
        }


PLUGIN = Gemma3
