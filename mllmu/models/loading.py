"""Load a model: the base by the ordinary Auto classes, then its adapters in order."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as library_logging

from mllmu.config.recipe import ModelSection
from mllmu.core import plugins, ranks
from mllmu.core.errors import MllmuError, ModelError
from mllmu.core.records import ModelRef
from mllmu.models.encoding import Encoder
from mllmu.models.families import Family
from mllmu.models.modifier_files import apply_modifier, is_modifier
from mllmu.models.modifiers import MODIFIER_FILE
from mllmu.models.processors import load_processor
from mllmu.models.quantize import keep_gradients, quantization

WEIGHTS_FILE = "weights.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"
EARLIER = "earlier_"
"""Beginning of the names of adapters that are kept beside the weights; the one in training has PEFT's own name."""
LOAD_FAULTS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)
"""What the libraries raise on files that are missing, damaged, or made for another model."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to run: weights, encoder, where it lives, and whether its training batches are packed."""

    model: Any
    encoder: Encoder
    device: torch.device
    packs: bool = False

    @property
    def family(self) -> Family:
        return self.encoder.family

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a reply."""
        configured = self.model.generation_config.eos_token_id
        more = configured if isinstance(configured, list) else [configured]
        trained = self.encoder.reply("?")[-1]
        return frozenset({trained, self.encoder.processor.tokenizer.eos_token_id, *more} - {None})

    @property
    def image_token_id(self) -> int | None:
        """Token that stands for a piece of the image, if the model has one."""
        config = self.model.config
        found = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        return None if found is None else int(found)


def tiny_folder() -> Path:
    """Folder of the embedded tiny model's weights."""
    return Path(str(resources.files("mllmu.models.tiny"))) / "weights"


def load(section: ModelSection, ref: ModelRef, run_folder: Path, encoder: Encoder | None = None) -> Loaded:
    """Load a model reference.

    Args:
        section: device, precision, attention kernel and family.
        ref: what to load.
        run_folder: where the reference's adapters are.
        encoder: of another model of the same base, to use what it has already tokenised.

    Raises:
        ModelError: the base or an adapter is missing or does not fit; names the path and the reason.
    """
    source = str(tiny_folder()) if ref.base == "tiny" else ref.base
    device = choose_device(section.device)
    try:
        with quiet_libraries():
            config = AutoConfig.from_pretrained(source, revision=ref.revision, trust_remote_code=False)
            encoder = encoder or make_encoder(section, source, ref.revision, config)
            settings = load_settings(section, config, encoder.family, device)
            model = load_base(source, ref.revision, **settings)
    except MllmuError:
        raise
    except LOAD_FAULTS as error:
        raise ModelError(
            f"model.path: '{ref.base}' cannot be loaded: {one_line(error)}. {torchvision_hint(error)}"
            "Expected 'tiny', a folder saved by save_pretrained with its processor, or a hub id."
        ) from None
    check_parts(model)
    if section.quantize:
        keep_gradients(model)
    for adapter in ref.adapters:
        model = apply_adapter(model, run_folder / adapter, merge=section.quantize is None)
    if "device_map" not in settings:
        model.to(device)
    model.eval()
    if section.gradient_checkpointing:
        compute_activations_again(model)
    return Loaded(model=model, encoder=encoder, device=device, packs=choose_packing(section, encoder.family))


def load_settings(section: ModelSection, config: Any, family: Family, device: torch.device) -> dict[str, Any]:
    """Precision, attention kernel, and where the weights go, as the library takes them.

    Raises:
        ModelError: ``device_map`` without a GPU.
        DependencyError: ``quantize`` without bitsandbytes.
    """
    dtype = choose_dtype(section.dtype, device)
    kernel = section.attn_implementation
    settings: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attention(config, device) if kernel == "auto" else kernel,
    }
    if section.quantize:
        settings |= {
            "quantization_config": quantization(section.quantize, config, family, dtype),
            "device_map": {"": str(device)},  # packed weights are made where they stay
        }
    if section.device_map:
        if ranks.count() > 1:
            raise ModelError("model.device_map: spreads a model over all GPUs, which leaves none to other processes.")
        if device.type != "cuda":
            raise ModelError(
                f"model.device_map: '{section.device_map}' spreads a model over GPUs, but the device is {device}. "
                "Leave it out, or run where GPUs are visible."
            )
        settings["device_map"] = section.device_map
    return settings


def check_parts(model: Any) -> None:
    """Training and scoring put the head on labelled positions alone, so a model must have a body and a head apart."""
    missing = [name for name in ("model", "lm_head") if not hasattr(model, name)]
    if missing:
        raise ModelError(
            f"model.path: {type(model).__name__} has no part '{missing[0]}'. Expected a model whose logits are "
            "lm_head(model(...)), as those of the families are (mllmu ls families)."
        )


def compute_activations_again(model: Any) -> None:
    """Checkpoint the activations of every layer while training; frozen inputs are no obstacle without re-entrance."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})


def torchvision_hint(error: Exception) -> str:
    """What to do about a processor that does not work on images alone."""
    if "torchvision" not in str(error).lower():
        return ""
    return "This model's processor needs torchvision: install the version that belongs to your torch. "


def load_base(source: str, revision: str | None, **settings: Any) -> Any:
    """The base model itself. Its code comes from the library alone, its weights from safetensors alone.

    Raises:
        ModelError: the files lack weights, which the library would fill with random numbers.
    """
    model, info = AutoModelForImageTextToText.from_pretrained(
        source, revision=revision, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **settings
    )
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(
            f"model.path: '{source}' lacks {len(missing)} of the weights of {type(model).__name__}, the first is "
            f"{missing[0]}. Expected the complete model: download or save it again."
        )
    return model


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' own bars and advice to their developers away from the user, who sees our progress."""
    bars = library_logging.is_progress_bar_enabled()
    library_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\.")
            yield
    finally:
        if bars:
            library_logging.enable_progress_bar()


def one_line(error: Exception) -> str:
    """The beginning of a library's message, without its line breaks and its closing stop."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def make_encoder(section: ModelSection, source: str, revision: str | None, config: Any) -> Encoder:
    """Processor, family and context length of a base model."""
    family = choose_family(section.family, str(config.model_type))
    processor = load_processor(source, revision, family.image_settings | section.image_processor)
    context = int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)
    return Encoder(family, processor, context)


def apply_adapter(model: Any, folder: Path, *, merge: bool = True) -> Any:
    """Merge a LoRA adapter, or load changed weights, into a model in memory, or let a modifier act.

    Args:
        merge: otherwise the adapter is kept beside the weights, frozen: weights of 4 or 8 bits would swallow it, as its
            changes are mostly smaller than their steps.

    Raises:
        ModelError: there is nothing, it is damaged, or it was made on a model with other layers or sizes.
    """
    if is_modifier(folder):
        try:
            return apply_modifier(model, folder, weights_file=WEIGHTS_FILE, adapter_file=ADAPTER_FILE)
        except (*LOAD_FAULTS, AttributeError) as error:
            raise ModelError(
                f"{folder / MODIFIER_FILE}: does not fit the base model or is damaged: {one_line(error)}. "
                "Expected what was made on this very base: check model.path, or run the earlier stages again."
            ) from None
    name = WEIGHTS_FILE if (folder / WEIGHTS_FILE).is_file() else ADAPTER_FILE
    missing = [file for file in (name, "adapter_config.json") if not (folder / file).is_file()]
    if name == ADAPTER_FILE and missing:
        raise ModelError(f"{folder}: no adapter there ({missing[0]} missing). Run the earlier stages again.")
    try:
        with quiet_libraries():
            if name == WEIGHTS_FILE:
                return _change_weights(model, folder)
            return _attach_adapter(model, folder).merge_and_unload() if merge else _attach_adapter(model, folder)
    except LOAD_FAULTS as error:
        raise ModelError(
            f"{folder / name}: does not fit the base model or is damaged: {one_line(error)}. "
            "Expected what was trained on this very base: check model.path, or run the earlier stages again."
        ) from None


def _attach_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter beside its weights, on top of those that it has already; all of them frozen."""
    earlier = list(model.peft_config) if isinstance(model, PeftModel) else []
    name = f"{EARLIER}{len(earlier)}"
    with warnings.catch_warnings():
        # layers that the file lacks are only warned about; they are counted below instead
        warnings.filterwarnings("ignore", message="Found missing adapter keys")
        if earlier:
            model.load_adapter(str(folder), adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    model.base_model.set_adapter([*earlier, name], inference_mode=True)
    with safe_open(folder / ADAPTER_FILE, framework="pt") as file:
        held = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
        different = set(file.keys()) ^ set(held)
    if different:
        raise ValueError(f"{len(different)} layers are in one but not in the other, the first is {min(different)}")
    return model


def _change_weights(model: Any, folder: Path) -> Any:
    unknown = model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"the base has no layer {unknown[0]}")
    return model


def attention(config: Any, device: torch.device) -> str:
    """Attention kernel: the plain one for models that bound their scores, which no fused one does.

    On CPU also for short contexts, where the fused backward pass is many times slower.
    """
    text = config.get_text_config()
    short = int(getattr(text, "max_position_embeddings", 0) or 0) <= 1024
    bounded = getattr(text, "attn_logit_softcapping", None) is not None
    return "eager" if bounded or (device.type == "cpu" and short) else "sdpa"


def choose_device(name: str) -> torch.device:
    """'auto' takes the first GPU if there is one; an unusable name raises ModelError."""
    if name == "auto":
        return own_gpu() if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"model.device: '{name}' is no device. Expected auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"model.device: '{name}' asked for, but no GPU is visible. Use device: auto or cpu.")
    if device.type == "cuda" and ranks.count() > 1:
        if device.index is not None:
            raise ModelError(f"model.device: '{name}' would be the GPU of all {ranks.count()} processes. Use auto.")
        device = own_gpu()
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"model.device: '{name}' cannot be used here: {one_line(error)}. Use device: auto.") from None
    return device


def own_gpu() -> torch.device:
    """The GPU of this process: the first, or one of its own where several processes are at work."""
    if ranks.count() == 1:
        return torch.device("cuda")
    number, available = ranks.local_rank(), torch.cuda.device_count()
    if number >= available:
        raise ModelError(
            f"model.device: process {number} of this machine has no GPU of its own, {available} are visible. "
            "Start as many processes as there are GPUs, or set model.device: cpu."
        )
    return torch.device("cuda", number)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """'auto' is bfloat16 on a GPU and float32 on CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def choose_family(name: str, model_type: str) -> Family:
    """The family named in the recipe, or the one that handles the model type, or the one for all others.

    Raises:
        ModelError: the library knows no such model for images and text.
    """
    if name != "auto":
        family: Family = plugins.build("families", name, {})
        return family
    for known in plugins.names("families"):
        cls = plugins.find("families", known)
        if model_type in cls.model_types:
            chosen: Family = cls()
            return chosen
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        other: Family = plugins.build("families", "auto", {})
        return other
    known_names = ", ".join(plugins.names("families"))
    raise ModelError(
        f"model.family: no family for model type '{model_type}', which is no model for images and text. "
        f"Known: {known_names}. Name one, or another model."
    )


def choose_packing(section: ModelSection, family: Family) -> bool:
    """'auto' packs where the family and the attention kernel allow it; asking for it elsewhere raises ModelError."""
    masked = section.attn_implementation != "flash_attention_2"
    able = family.packs
    if section.packing == "on" and not able:
        raise ModelError(
            f"model.packing: the family '{family.name}' cannot be packed (its images see the question, or nobody "
            "has said how its layers mask). Use packing: auto or off."
        )
    if section.packing == "on" and not masked:
        raise ModelError(
            "model.packing: flash_attention_2 takes no mask of its own, which packing needs. "
            "Use packing: off, or attn_implementation: sdpa."
        )
    return section.packing != "off" and able and masked
