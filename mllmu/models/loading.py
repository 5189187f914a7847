"""Load a model: the base by the ordinary Auto classes, then its adapters in order."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from mllmu import plugins
from mllmu.errors import ModelError
from mllmu.models.encoding import Encoder
from mllmu.models.families import Family
from mllmu.recipe import ModelSection
from mllmu.records import ModelRef

WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to run: weights, encoder, and where it lives."""

    model: Any
    encoder: Encoder
    device: torch.device

    @property
    def family(self) -> Family:
        return self.encoder.family

    @property
    def image_token_id(self) -> int | None:
        """Token that stands for a piece of the picture, if the model has one."""
        config = self.model.config
        found = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        return None if found is None else int(found)


def tiny_folder() -> Path:
    """Folder of the embedded tiny model's weights."""
    return Path(str(resources.files("mllmu.models.tiny"))) / "weights"


def load(section: ModelSection, ref: ModelRef, run_folder: Path, encoder: Encoder | None = None) -> Loaded:
    """Load a model reference.

    Args:
        section: device, precision and family.
        ref: what to load.
        run_folder: where the reference's adapters are.
        encoder: of another model of the same base, to use what it has already tokenised.

    Raises:
        ModelError: the base or an adapter is missing or does not fit; names the path and the reason.
    """
    source = str(tiny_folder()) if ref.base == "tiny" else ref.base
    device = choose_device(section.device)
    dtype = choose_dtype(section.dtype, device)
    try:
        config = AutoConfig.from_pretrained(source, revision=ref.revision)
        encoder = encoder or make_encoder(section, source, ref.revision, config)
        model = AutoModelForImageTextToText.from_pretrained(
            source, revision=ref.revision, dtype=dtype, attn_implementation=attention(config, device)
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model.path: '{ref.base}' cannot be loaded: {reason}. "
            "Expected 'tiny', a folder saved by save_pretrained with its processor, or a hub id."
        ) from None
    for adapter in ref.adapters:
        model = apply_adapter(model, run_folder / adapter)
    model.to(device).eval()
    return Loaded(model=model, encoder=encoder, device=device)


def make_encoder(section: ModelSection, source: str, revision: str | None, config: Any) -> Encoder:
    """Processor, family and context length of a base model."""
    processor = AutoProcessor.from_pretrained(source, revision=revision)
    context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)
    return Encoder(choose_family(section.family, str(config.model_type)), processor, context)


def apply_adapter(model: Any, folder: Path) -> Any:
    """Merge a LoRA adapter, or load changed weights, into a model in memory."""
    if (folder / WEIGHTS_FILE).is_file():
        unexpected = model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False).unexpected_keys
        if unexpected:
            raise ModelError(f"{folder / WEIGHTS_FILE}: weights of another model (unknown: {unexpected[0]}).")
        return model
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: no adapter there (adapter_config.json missing). Run the earlier stages again.")
    return PeftModel.from_pretrained(model, str(folder)).merge_and_unload()


def attention(config: Any, device: torch.device) -> str:
    """Attention kernel: on CPU the plain one for short contexts, where the fused backward pass is many times slower."""
    short = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0) <= 1024
    return "eager" if device.type == "cpu" and short else "sdpa"


def choose_device(name: str) -> torch.device:
    """'auto' takes the first GPU if there is one; an unusable name raises ModelError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"model.device: '{name}' is no device. Expected auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"model.device: '{name}' asked for, but no GPU is visible. Use device: auto or cpu.")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """'auto' is bfloat16 on a GPU and float32 on CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def choose_family(name: str, model_type: str) -> Family:
    """The family named in the recipe, or the one that handles the model type."""
    if name != "auto":
        family: Family = plugins.build("families", name, {})
        return family
    for known in plugins.names("families"):
        cls = plugins.find("families", known)
        if model_type in cls.model_types:
            chosen: Family = cls()
            return chosen
    known_names = ", ".join(plugins.names("families"))
    raise ModelError(f"model.family: no family for model type '{model_type}'. Known: {known_names}. Name one.")
