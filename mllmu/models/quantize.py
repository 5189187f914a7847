"""Load a model with small weights: the language model's layers in 8 or 4 bits, all else as it is (extra ``qlora``).

Only layers that can get adapters are made small. Vision tower, projector, embeddings and head keep their precision:
they are few, and rounding them costs much.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from mllmu.core.errors import needs_extra
from mllmu.models.families import Family

REPACKS = "support_avx512bf16_for_cpu"


def quantization(kind: str, config: Any, family: Family, compute: torch.dtype) -> BitsAndBytesConfig:
    """How the library is to load the weights.

    Args:
        kind: 'int8' (LLM.int8, about 1 byte a weight) or 'nf4' (QLoRA's 4-bit normal floats with double quantisation,
            about 0.52 bytes a weight).
        config: of the model, to find its layers without loading it.
        family: its ``lora_targets`` are the layers to make small.
        compute: precision of the products.

    Raises:
        DependencyError: bitsandbytes is not installed.

    Source: Dettmers et al. 2022, arXiv:2208.07339; Dettmers et al. 2023, arXiv:2305.14314.
    """
    with needs_extra(f"model.quantize: {kind}", "qlora"):
        import bitsandbytes  # noqa: F401 - asked for by the library when it loads
    kept = kept_layers(config, family)
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=kept,
    )


def kept_layers(config: Any, family: Family) -> list[str]:
    """Linear layers that stay as they are, by their full names; the model is only outlined, nothing is loaded."""
    with torch.device("meta"):
        outline = AutoModelForImageTextToText.from_config(config)
    linear = [name for name, layer in outline.named_modules() if isinstance(layer, nn.Linear)]
    return [name for name in linear if not re.fullmatch(family.lora_targets, name)]


def keep_gradients(model: Any) -> None:
    """Keep weights of 4 bits in the form that gradients go through.

    On some CPUs the library packs them anew at the first evaluation, and what is trained after that gets no gradient,
    without an error.
    """
    for layer in model.modules():
        if hasattr(layer, REPACKS):
            setattr(layer, REPACKS, False)
