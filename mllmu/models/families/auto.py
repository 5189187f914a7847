"""Any other model that the library loads for images and text, asked through its chat template."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mllmu.core.errors import ModelError
from mllmu.models.families._chat import ChatFamily

OF_TOKENS = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"}
LAYERS = "q_proj|k_proj|v_proj|o_proj|qkv_proj|gate_proj|up_proj|gate_up_proj|down_proj"

OTHER = "Use a model of one of the families (mllmu ls families)."


class Auto(ChatFamily):
    """Any AutoModelForImageTextToText whose processor has a chat template; slower, nothing is shared or packed.

    Image tensors are all that the processor makes beside tokens. The layers to train are those of attention and of
    the feed-forward part outside of anything named after vision; check them with ``mllmu doctor``.
    """

    source = "https://huggingface.co/docs/transformers/tasks/image_text_to_text"
    lora_targets = rf"(?!.*(vision|visual|image|projector|connector|aligner|resampler)).*\.({LAYERS})"

    def image_tensors(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """All tensors but those of tokens.

        Raises:
            ModelError: the processor makes several prompts of one, or tells the model of every token how it sees the
                images, which is not kept here: an image is prepared once for all questions about it.
        """
        tensors = {k: v for k, v in inputs.items() if k not in OF_TOKENS and isinstance(v, torch.Tensor)}
        shape_BT = inputs["input_ids"].shape
        if shape_BT[0] != 1:
            raise ModelError(
                f"model.path: its processor makes {shape_BT[0]} prompts of one question, expected 1: it writes prompts "
                f"of its own. {OTHER}"
            )
        if of_tokens := [name for name, tensor in tensors.items() if tensor.shape[:2] == shape_BT]:
            raise ModelError(
                f"model.path: its processor makes {of_tokens[0]} {list(tensors[of_tokens[0]].shape)} for the "
                f"{shape_BT[1]} tokens of a prompt, expected images whose tensors are the same in front of every "
                f"question. {OTHER}"
            )
        return tensors

    def token_inputs(self, ids_BT: Tensor, labels_BT: Tensor, processor: Any) -> dict[str, Tensor]:
        if "mm_token_type_ids" not in processor.model_input_names:
            return {}
        image = getattr(processor, "image_token_ids", None) or [processor.image_token_id]
        return {"mm_token_type_ids": torch.isin(ids_BT, torch.tensor(image, device=ids_BT.device)).int()}
