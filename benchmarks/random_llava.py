"""A random LLaVA of any size, saved as ``save_pretrained`` leaves one: what the benchmarks of speed run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

PATCH = 14
"""Side of a piece of an image, as in LLaVA-1.5; an image of 336 is 576 tokens."""
Sizes = tuple[int, int, int, int]
"""Width, layers, heads and inner size."""


def config(tokenizer: Any, *, text: Sizes, vision: Sizes, image_size: int, vocab_size: int = 32_064) -> LlavaConfig:
    """The shape of LLaVA-1.5 in all that decides the number of tokens, with other sizes."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    tower = CLIPVisionConfig(**dict(zip(names, vision, strict=True)), image_size=image_size, patch_size=PATCH)
    language = LlamaConfig(
        **dict(zip(names, text, strict=True)), vocab_size=vocab_size, max_position_embeddings=4096,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=tower, text_config=language, image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(image_size // PATCH) ** 2, vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip


def save(
    folder: Path, settings: LlavaConfig, tokenizer: Any, *, device: torch.device | str = "cpu", scale: float = 1
) -> None:
    """Draw the weights on a device, in bfloat16 on a GPU, and save them with their processor.

    Args:
        scale: of the embeddings and of the output layer, beside how they are drawn.
    """
    tokenizer.model_max_length = 4096
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    try:
        if torch.device(device).type == "cuda":
            settings.dtype = torch.bfloat16
            torch.set_default_dtype(torch.bfloat16)
        with torch.device(device):
            model = LlavaForConditionalGeneration(settings)
    finally:
        torch.set_default_dtype(default)
    if scale != 1:
        with torch.no_grad():
            model.lm_head.weight.mul_(scale)
            model.get_input_embeddings().weight.mul_(scale)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    side = settings.vision_config.image_size
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
