"""What checkpoints of others may hold that cannot be used as a base model, in words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME

from mllmu.core.errors import ModelError
from mllmu.models import misfits
from mllmu.models.engine.forward import apply_head
from mllmu.models.families import Family

TOKENS, OFF = 4, 0.01
"""How many tokens a head is tried on, and by how much of the largest logit one may be off."""


def advice(source: str) -> str:
    """What to do about a base that cannot be loaded."""
    if is_adapter(Path(source)):
        return (
            f"It is the folder of an adapter, not of a model: name its base ({adapter_base(Path(source))}), or merge "
            "the adapter into that and save the whole model (PEFT: merge_and_unload, then save_pretrained)."
        )
    return "Expected 'tiny', 'smol', a folder saved by save_pretrained with its processor, or a hub id."


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter alone."""
    return (folder / CONFIG_NAME).is_file() and not (folder / "config.json").is_file()


def adapter_base(folder: Path) -> str:
    """The base that an adapter names, as a path or hub id; empty if it names none."""
    try:
        named = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder / CONFIG_NAME}: not readable ({error}). Expected the settings of an adapter."
        ) from None
    return named if isinstance(named, str) else ""


def unusable(source: str, model: Any, missing: Sequence[str]) -> ModelError:
    """Why a model that the library has loaded is no base, although nothing was raised.

    Args:
        missing: weights that the files lack; the library has filled them with random numbers.
    """
    name = type(model).__name__
    if missing:
        tie = "" if "lm_head.weight" not in missing else (
            " If the output layer is the embedding, config.json must say so (tie_word_embeddings: true)."
        )  # fmt: skip
        return ModelError(
            f"model.path: '{source}' lacks {len(missing)} of the weights of {name}, the first is {missing[0]}. "
            f"Expected the complete model: download or save it again.{tie}"
        )
    if lacking := [part for part in ("model", "lm_head") if not hasattr(model, part)]:
        return ModelError(
            f"model.path: {name} has no part '{lacking[0]}'. Expected a model whose logits are lm_head(model(...)), as "
            "those of the families are (mllmu ls families)."
        )
    return ModelError(
        f"model.path: '{source}' holds a whole model and an adapter beside it ({CONFIG_NAME}), and training would "
        "start without the adapter. Move the adapter files away, or merge them into the model and save it whole (PEFT: "
        "merge_and_unload, then save_pretrained)."
    )


@torch.no_grad()
def check_head(source: str, model: Any) -> None:
    """Compare the logits of a few tokens that the model gives with those of its head, as everything here takes them.

    Some models of the library scale logits behind their head, mask some or cut them off. A model that cannot read
    text without an image is not compared.

    Raises:
        ModelError: a logit differs by more than 1 % of the largest one, or there are not as many.
    """
    named = {value for key, value in model.config.to_dict().items() if "token" in key and isinstance(value, int)}
    size = model.get_input_embeddings().weight.shape[0]
    ids = [token for token in range(size // 2, size) if token not in named][:TOKENS]
    inputs = {"input_ids": torch.tensor([ids], device=model.device), "use_cache": False}
    try:
        own_TV = model(**inputs).logits[0].float().cpu()
        hidden_TD = model.model(**inputs).last_hidden_state[0]
    except misfits.RAISED:
        return
    ours_TV = apply_head(model, hidden_TD).float().cpu()
    if ours_TV.shape == own_TV.shape and not (ours_TV - own_TV).abs().max() > OFF * own_TV.abs().max():
        return
    raise ModelError(
        f"model.path: the logits of {type(model).__name__} ('{source}') are not what its lm_head gives: the library "
        "scales, masks or cuts them behind it, and log-probabilities and losses here would be those of another model. "
        "Expected a model whose logits are lm_head(model(...)), as those of the families are (mllmu ls families)."
    )


def unpackable(family: Family, unknown: str, *, masked: bool) -> ModelError:
    """Why questions about one image cannot share a sequence, though the recipe asks for it.

    Args:
        unknown: layers whose attention is not known.
        masked: the attention kernel takes a mask.
    """
    if not masked:
        reason = "flash_attention_2 takes no mask of its own, which packing needs. Use attn_implementation: sdpa"
    elif not family.packs:
        reason = (
            f"the family '{family.name}' cannot be packed (its images see the question, or its masks are unknown). "
            "Use packing: auto"
        )
    else:
        reason = f"what tokens of a packed sequence see is not known for {unknown}. Use packing: auto"
    return ModelError(f"model.packing: {reason}, or packing: off.")
