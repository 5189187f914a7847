"""Any other model that the library loads for images and text, asked through its chat template."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mllmu.models.families._chat import ChatFamily

OF_TOKENS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"}
LAYERS = "q_proj|k_proj|v_proj|o_proj|qkv_proj|gate_proj|up_proj|gate_up_proj|down_proj"


class Auto(ChatFamily):
    """Any AutoModelForImageTextToText whose processor has a chat template; slower, nothing is shared or packed.

    Image tensors are all that the processor makes beside tokens. The layers to train are those of attention and of
    the feed-forward part outside of anything named after vision; check them with ``mllmu doctor``.
    """

    source = "https://huggingface.co/docs/transformers/tasks/image_text_to_text"
    lora_targets = rf"(?!.*(vision|visual|image|projector|connector|aligner|resampler)).*\.({LAYERS})"

    def image_tensors(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        return {k: v for k, v in inputs.items() if k not in OF_TOKENS and isinstance(v, torch.Tensor)}

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        if "mm_token_type_ids" not in processor.model_input_names:
            return {}
        return {"mm_token_type_ids": (ids_BT == processor.image_token_id).int()}
