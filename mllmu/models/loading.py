"""Load a model: the base by the ordinary Auto classes, then its adapters in order; add a new adapter, and save it."""

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import CONFIG_NAME
from peft.utils import SAFETENSORS_WEIGHTS_NAME as ADAPTER_FILE
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils import logging as library_logging

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core import plugins, process
from mllmu.core.errors import MllmuError, ModelError, is_out_of_memory, one_line
from mllmu.core.records import ModelRef
from mllmu.core.runfolder import explain_os_errors, intact, read_json
from mllmu.models import checkpoints, devices, foreign, misfits, processors, weights
from mllmu.models.dropout import seed_dropout
from mllmu.models.encoding import Encoder
from mllmu.models.encoding import Loaded as Loaded
from mllmu.models.families import Family, core, num_layers, unknown_attention
from mllmu.models.modifiers import MODIFIER_FILE, apply_modifier
from mllmu.models.weights import WEIGHTS_FILE

LOAD_FAULTS = (AttributeError, OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)
"""What the libraries raise on files that are missing, damaged, or made for another model."""
DEEP = 16
"""Layers of a language model from which on the number of operations of a training step counts on a CPU, too."""
WITHOUT_LOOKING = 2**26
"""Bytes of a base that is kept without looking how much memory is free."""


def source_of(base: str) -> str:
    """The folder or hub id that a base model is read from; 'tiny' and 'smol' are the embedded ones."""
    if base == "smol":
        return str(import_module("mllmu.models.smol.assemble").folder())
    return str(resources.files("mllmu.models.tiny") / "weights") if base == "tiny" else base


def load(section: ModelSection, ref: ModelRef, run_folder: Path, encoder: Encoder | None = None) -> Loaded:
    """Load a model reference: its base, and its adapters, whose paths are relative to ``run_folder``.

    Args:
        encoder: of another model of the same base, to use what it has already tokenised.

    Raises:
        ModelError: the base or an adapter is missing or does not fit; names the path and the reason.
    """
    source = source_of(ref.base)
    device = choose_device(section.device, None if section.device_map else source)
    with explain_load_faults(f"model.path: '{ref.base}' cannot be loaded", partial(checkpoints.advice, source)):
        config = AutoConfig.from_pretrained(source, revision=ref.revision, trust_remote_code=False)
        encoder = encoder or make_encoder(section, source, ref.revision, config)
        dtype, kernel = choose_dtype(section.dtype, device), section.attn_implementation
        chosen = attention(config, device) if kernel == "auto" else kernel
        settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": chosen}
        small = section.quantize or getattr(config, "quantization_config", None)
        if small:
            settings |= weights.load_settings(section.quantize, config, encoder.family, dtype, device)
        elif section.device_map:
            settings["device_map"] = devices.device_map(section.device_map, device)
        alone = not (small or section.device_map or process.count() > 1)
        model = (keep_base if alone else load_base)(source, ref.revision, device, **settings)
    if small:
        weights.keep_gradients(model)
    for adapter in ref.adapters:
        model = apply_adapter(model, run_folder / adapter, merge=not small)
    model.eval()
    if section.gradient_checkpointing is True:
        devices.recompute_activations(model)
    return Loaded(model=model, encoder=encoder, device=device, packs=choose_packing(section, encoder.family, config))


_kept: dict[tuple[Any, ...], tuple[Any, list[int]]] = {}
"""The base of this process by what it was read from, and the sum over the bits of each of its weights."""


def keep_base(source: str, revision: str | None, device: torch.device, **settings: Any) -> Any:
    """A model of its own on the weights of the base, which is read once by a process and kept on its device.

    All models of a base share its weights, so what changes weights puts others in their place. A base that was written
    to all the same, or whose files changed, is read again. One is kept at a time, and none without room for the copies
    that merging makes of float32 weights.
    """
    files = sorted(file for file in Path(source).glob("*") if file.suffix in {".json", ".safetensors"})
    stamps = ((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    key = (source, revision, device, *map(str, settings.items()), *stamps)
    model, sums = _kept.get(key, (None, []))
    if model is None or sums != _bit_sums(model):
        model = load_base(source, revision, device, **settings)
        size = sum(p.nbytes for p in model.parameters() if p.dtype == torch.float32)
        if size > WITHOUT_LOOKING and size > devices.free_bytes(device):
            return model
        _kept[key] = (model, _bit_sums(model))
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, shared)


def _bit_sums(model: Any) -> list[int]:
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return torch.stack([p.detach().view(integers[p.itemsize]).sum() for p in model.parameters()]).tolist()


def release_base() -> None:
    """Forget the base of this process; its memory is free as soon as no model of it is left."""
    _kept.clear()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def load_base(source: str, revision: str | None, device: torch.device, **settings: Any) -> Any:
    """The base model itself, on its device. Its code comes from the library alone, its weights from safetensors alone.

    Raises:
        ModelError: weights are missing, which the library would fill with random numbers; it has no body or no head,
            or, without a family of its own, other logits than its head gives; or an adapter lies beside it.
    """
    release_base()
    if device.type != "cpu":
        settings.setdefault("device_map", {"": str(device)})
    model, info = AutoModelForImageTextToText.from_pretrained(
        source, revision=revision, trust_remote_code=False, use_safetensors=True, output_loading_info=True, **settings
    )
    whole = not info["missing_keys"] and hasattr(model, "model") and hasattr(model, "lm_head")
    if not whole or model._hf_peft_config_loaded:
        raise checkpoints.unusable(source, model, sorted(info["missing_keys"]))
    if choose_family("auto", model.config.model_type).name == "auto":
        checkpoints.check_head(source, model)
    named = ("bos_token_id", "eos_token_id", "pad_token_id")  # of all that steers decoding: replies are greedy
    model.generation_config = GenerationConfig(**{name: getattr(model.generation_config, name) for name in named})
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


@contextmanager
def explain_load_faults(what: str, advice: str | Callable[[], str] = "") -> Iterator[None]:
    """Keep the libraries quiet, and turn what they raise on files that do not fit into one ModelError."""
    try:
        with quiet_libraries():
            yield
    except Exception as error:  # itself is what a damaged tokenizer raises
        ours = isinstance(error, MllmuError) or is_out_of_memory(error)
        if ours or not (isinstance(error, LOAD_FAULTS) or type(error) is Exception):
            raise
        advised = processors.torchvision_hint(error) + (advice if isinstance(advice, str) else advice())
        raise ModelError(f"{what}: {one_line(error)}. {advised}".rstrip()) from None


def make_encoder(section: ModelSection, source: str, revision: str | None, config: Any) -> Encoder:
    """Processor, family and context length of a base model."""
    family = choose_family(section.family, getattr(config, "mllmu_family", str(config.model_type)))
    processor = load_processor(source, revision, family.image_settings | section.image_processor)
    return Encoder(family, processor, context_length(config.get_text_config()))


def context_length(config: Any) -> int:
    """Most tokens of a prompt with its reply.

    Some models turn positions otherwise once a batch holds one longer prompt (rope_type longrope), so that the same
    question would get other replies beside other questions; their context ends where that begins.
    """
    length = int(getattr(config, "max_position_embeddings", 0) or 1 << 30)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(each for each in rope.values() if isinstance(each, dict))]
    changing = (each for each in kinds if each.get("rope_type") == "longrope")
    return min([length, *(int(each["original_max_position_embeddings"]) for each in changing)])


def load_processor(source: str, revision: str | None, settings: dict[str, Any]) -> Any:
    """The processor of a model; ``settings`` of its image processor replace those stored with the model."""
    read = partial(AutoProcessor.from_pretrained, source, revision=revision, trust_remote_code=False)
    try:
        processor = read()
    except LOAD_FAULTS:  # without torchvision the library says so in several ways
        if not processors.leave_videos_out():
            raise
        processor = read()
    if settings:
        processors.change_images(processor, settings)
    if None in (processor.tokenizer.eos_token, processor.tokenizer.pad_token_id):
        processors.name_ends(processor.tokenizer, source, revision)
    parts = (processor, getattr(processor, "image_processor", None))
    held = [getattr(part, name, None) for part in parts for name in misfits.BOUNDED]
    numbers = [number for each in held for number in getattr(each, "__dict__", {"": each}).values()]
    if any(isinstance(number, (int, float)) and not 0 <= number <= misfits.MOST_SIDE for number in numbers):
        misfits.refuse_large(source, processor)
    return processor


def attention(config: Any, device: torch.device) -> str:
    """Attention kernel: the plain one for models that bound their scores, which no fused one does.

    On CPU also for short contexts, where the fused backward pass is many times slower.
    """
    text = config.get_text_config()
    short = int(getattr(text, "max_position_embeddings", 0) or 0) <= 1024
    bounded = getattr(text, "attn_logit_softcapping", None) is not None
    return "eager" if bounded or (device.type == "cpu" and short) else "sdpa"


def choose_device(name: str, source: str | None = None) -> torch.device:
    """'auto' takes the first GPU, but not for a small model in a folder; an unusable name raises ModelError."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return devices.choose(name, source)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """'auto' is bfloat16 on a GPU and float32 on CPU."""
    own = "bfloat16" if device.type == "cuda" else "float32"
    dtype: torch.dtype = getattr(torch, own if name == "auto" else name)
    return dtype


def choose_family(name: str, model_type: str, hub_id: str = "") -> Family:
    """The family named in the recipe, or that of the model type or hub id, or the one for all other models.

    Raises:
        ModelError: the library knows no such model type for images and text.
    """
    known = plugins.names("families")
    if name == "auto":
        classes = ((each, plugins.find("families", each)) for each in known)
        own = (n for n, c in classes if model_type in c.model_types or hub_id.startswith(c.hub_names))
        name = next(own, "auto")
        if name == "auto" and model_type and model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
            raise ModelError(
                f"model.family: no family for model type '{model_type}', which is no model for images and text. "
                f"Known: {', '.join(known)}. Name one, or another model."
            )
    family: Family = plugins.build("families", name, {})
    return family


def family_of(section: ModelSection) -> Family:
    """The family of a base model by its config on disk or its hub id, without a network."""
    config = read_json(Path(source_of(section.path)) / "config.json")
    return choose_family(section.family, config.get("mllmu_family", config.get("model_type", "")), section.path)


def choose_packing(section: ModelSection, family: Family, config: Any) -> bool:
    """'auto' packs where family, layers and attention kernel allow it; asking for it elsewhere raises ModelError."""
    masked = section.attn_implementation != "flash_attention_2"
    packs = masked and family.packs and not unknown_attention(config.get_text_config())
    if section.packing == "on" and not packs:
        raise checkpoints.unpackable(family, unknown_attention(config.get_text_config()), masked=masked)
    return section.packing != "off" and packs


def apply_adapter(model: Any, folder: Path, *, merge: bool = True) -> Any:
    """Add a LoRA adapter, or put changed weights, into a model in memory, or let a modifier act.

    With ``merge=False`` PEFT keeps the adapter beside the weights, frozen: 4 or 8 bits would swallow its small changes.

    Raises:
        ModelError: the folder is empty, damaged, or was made on a model with other layers or sizes.
    """
    name = next((name for name in (MODIFIER_FILE, WEIGHTS_FILE) if (folder / name).is_file()), ADAPTER_FILE)
    missing = [file for file in (ADAPTER_FILE, CONFIG_NAME) if not (folder / file).is_file()]
    if name == ADAPTER_FILE and missing:
        raise ModelError(f"{folder}: no adapter there ({missing[0]} missing). Run the earlier stages again.")
    expected = "Expected what was made on this very base: check model.path, or run the earlier stages again."
    with explain_load_faults(f"{folder / name}: does not fit the base model or is damaged", expected):
        if not intact(folder) and name == ADAPTER_FILE:
            foreign.check_adapter(folder)
        if name == MODIFIER_FILE:
            return apply_modifier(model, folder)
        if name == WEIGHTS_FILE:
            return weights.read_weights(model, folder)
        return add_adapter(model, folder) if merge else weights.attach(model, folder)


@torch.no_grad()
def add_adapter(model: Any, folder: Path) -> Any:
    """Add a LoRA adapter to the layers of a model: W + alpha / rank * B A.

    Float32 weights become the sum. Shorter numbers would swallow a third of the changes, so there the factors stay
    beside the weights (:class:`mllmu.models.weights.AdaptedLinear`).
    """
    config = LoraConfig.from_pretrained(str(folder))
    layers = {name: layer for name, layer in core(model).named_modules() if check_target_module_exists(config, name)}
    held = load_file(folder / ADAPTER_FILE)
    if different := set(held) ^ {f"base_model.model.{name}.lora_{part}.weight" for name in layers for part in "AB"}:
        raise ValueError(f"{len(different)} layers are in one but not in the other, the first is {min(different)}")
    if config.use_dora or config.use_rslora or config.rank_pattern or config.alpha_pattern:
        raise ValueError("only plain low-rank adapters can be added")
    scale = config.lora_alpha / config.r
    for name, layer in layers.items():
        factors = (held[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        down_RI, up_OR = (factor.to(layer.weight.device) for factor in factors)
        if layer.weight.dtype != torch.float32:
            weights.put_beside(layer, down_RI, scale * up_OR)
        else:
            layer.weight = nn.Parameter(layer.weight + (up_OR @ down_RI) * scale, requires_grad=False)
    return model


def add_trainable(model: Any, family: Family, lora: Lora | None, *, seed: int, targets: str | None = None) -> Any:
    """Freeze everything, then make the language model's adapters (or, without LoRA, its linear layers) trainable.

    The layers are those of ``targets``, of ``lora``, or of the family, which leaves vision tower and projector out.

    Raises:
        ModelError: the pattern matches no layer, or one that cannot have an adapter; or weights are to be trained
            that are not float32.
    """
    pattern = targets or (lora.targets if lora else None) or family.lora_targets
    matched = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    if not matched:
        raise ModelError(
            f"lora.targets: the pattern {pattern!r} matches no layer of {type(model).__name__}. "
            f"It must match a whole layer name; leave it out to train the language model ({family.lora_targets!r})."
        )
    model.requires_grad_(requires_grad=False)
    if lora is None:
        release_base()  # most of it is about to be copied
        return weights.train_weights(model, matched)
    torch.manual_seed(seed)
    sizes = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    config = LoraConfig(**sizes, target_modules=pattern, init_lora_weights="gaussian")
    add = weights.add_adapter if isinstance(model, PeftModel) else get_peft_model
    try:
        with quiet_libraries():
            model = add(model, config)
    except ValueError as error:
        raise ModelError(f"lora.targets: {one_line(error)}. Match linear layers only.") from None
    if lora.dropout or len(model.peft_config) > 1:
        seed_dropout(model, weights.NEW)
    if num_layers(model) >= DEEP or next(model.parameters()).is_cuda:
        from mllmu.models.engine import fused

        fused.fuse(model)
    return model


def without_adapter(model: Any) -> AbstractContextManager[Any]:
    """The model as it was before training: the new adapter off, if it has one. This is the reference inside a loss."""
    if not isinstance(model, PeftModel) or weights.NEW not in model.peft_config:
        return nullcontext()
    return model.disable_adapter() if set(model.peft_config) == {weights.NEW} else weights.earlier_adapters(model)


def save_trained(model: Any, folder: Path) -> None:
    """Save the adapter, or the trained weights alone; never a full copy of the model."""
    if isinstance(model, PeftModel):
        with explain_disk_errors(folder):
            # embeddings are never trained; "auto" would ask the hub whether they were resized
            model.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=[weights.NEW])
        (folder / "README.md").unlink(missing_ok=True)
        return
    trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    with explain_disk_errors(folder / WEIGHTS_FILE):
        save_file(trained, folder / WEIGHTS_FILE)


@contextmanager
def explain_disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into one clear message; the weights' writer has an error class of its own."""
    with explain_os_errors(path):
        try:
            yield
        except SafetensorError as error:
            raise OSError(one_line(error)) from None
