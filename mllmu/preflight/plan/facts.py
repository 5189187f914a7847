"""Sizes of a model from its config alone; no weights are read or made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText

from mllmu.config.recipe import Lora, ModelSection
from mllmu.core.errors import ModelError
from mllmu.models.families import Family
from mllmu.models.loading import (
    LOAD_FAULTS,
    attention,
    choose_family,
    choose_packing,
    one_line,
    quiet_libraries,
    tiny_folder,
)

KNOWN = "known_models.yaml"
BYTES = {torch.float32: 4, torch.bfloat16: 2}
QUANTIZED = {"int8": 1.0, "nf4": 0.5 + 8.127 / 64 / 8}
"""Bytes a weight; nf4: four bits, and per 64 weights a scale that is itself stored in 8.127 bits."""


@cache
def known_models() -> dict[str, dict[str, Any]]:
    """Sizes of well-known models by hub id."""
    text = (resources.files("mllmu.preflight.plan") / KNOWN).read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What a config says about a model.

    Attributes:
        parameters, vision, language: number of weights: all, in vision tower and projector, in the language model.
        resident: bytes of all weights as loaded.
        packs, shares: questions about one image are trained in one sequence, and asked behind one common prefix.
        kv_token: bytes that the keys and values of one token take in the cache.
        shapes: (rows, columns) of every linear layer by name.
        image_tokens, patches: of one portrait; None if only the processor knows.
    """

    name: str
    config: Any
    family: Family
    packs: bool
    shares: bool
    dtype: torch.dtype
    quantize: str | None
    parameters: int
    vision: int
    kv_token: int
    shapes: dict[str, tuple[int, int]]
    image_tokens: int | None
    patches: int | None

    @property
    def language(self) -> int:
        return self.parameters - self.vision

    @property
    def resident(self) -> int:
        """Bytes of all weights as loaded; quantised are the linear layers of the language model."""
        width = BYTES[self.dtype]
        packed = sum(rows * columns for name, (rows, columns) in self.shapes.items() if self._packs_weight(name))
        return self.parameters * width - round(packed * (width - QUANTIZED.get(self.quantize or "", width)))

    def _packs_weight(self, name: str) -> bool:
        return self.quantize is not None and not _is_vision(name) and not name.endswith("lm_head")

    @property
    def text(self) -> Any:
        return self.config.get_text_config()

    def trainable(self, lora: Lora | None) -> int:
        """Weights that are trained: rank * (inputs + outputs) per adapted layer, or the layers themselves."""
        pattern = (lora.targets if lora else None) or self.family.lora_targets
        matched = [shape for name, shape in self.shapes.items() if re.fullmatch(pattern, name)]
        if lora is None:
            return sum(rows * columns for rows, columns in matched)
        return sum(lora.rank * (rows + columns) for rows, columns in matched)

    def build(self, config: Any) -> Any:
        """A model of this kind with the attention kernel and precision of the run; under a device of its own."""
        return _build(config, self.dtype, config._attn_implementation)


def describe(section: ModelSection, *, device: str) -> ModelFacts:
    """Read or look up the config of a base model and measure the model made from it on the meta device.

    Args:
        device: 'cpu' or 'cuda': decides precision and attention kernel as loading would.

    Raises:
        ModelError: the config can be neither found nor used; names the ids that work without a network.
    """
    known = known_models().get(section.path, {})
    try:
        with quiet_libraries():
            config = _config(section, known)
            family = choose_family(section.family, str(config.model_type))
            dtype = torch.bfloat16 if (section.dtype, device) in _HALF else torch.float32
            config.dtype = dtype
            config._attn_implementation = attention(config, torch.device(device))
            with torch.device("meta"):
                model = _build(config, dtype, config._attn_implementation)
    except LOAD_FAULTS as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"model.path: the config of '{section.path}' cannot be read: {one_line(error)}. Expected 'tiny', a folder, "
            f"a hub id that can be reached, or one known without a network: {', '.join(known_models())}."
        ) from None
    return _measured(section, config, family, dtype, model, known)


_HALF = {("auto", "cuda"), ("bfloat16", "cuda"), ("bfloat16", "cpu")}


def _config(section: ModelSection, known: dict[str, Any]) -> Any:
    if known:
        settings = dict(known["config"])
        return AutoConfig.for_model(settings.pop("model_type"), **settings)
    source = str(tiny_folder()) if section.path == "tiny" else section.path
    return AutoConfig.from_pretrained(source, revision=section.revision, trust_remote_code=False)


def _build(config: Any, dtype: torch.dtype, kernel: str) -> Any:
    return AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=kernel)


def _measured(
    section: ModelSection, config: Any, family: Family, dtype: torch.dtype, model: Any, known: dict[str, Any]
) -> ModelFacts:
    whole = section.image_processor.get("do_image_splitting") is False
    image = known.get("whole", known) if whole else known
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    head = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    return ModelFacts(
        name=section.path,
        config=config,
        family=family,
        packs=choose_packing(section, family),
        shares=family.shares_prefix,
        dtype=dtype,
        quantize=section.quantize,
        parameters=sum(p.numel() for p in model.parameters()),
        vision=sum(p.numel() for name, p in model.named_parameters() if _is_vision(name)),
        kv_token=2 * int(text.num_hidden_layers) * kv_heads * head * BYTES[dtype],
        shapes={n: tuple(m.weight.shape) for n, m in model.named_modules() if _is_linear(m)},
        image_tokens=image.get("image_tokens"),
        patches=image.get("patches"),
    )


def _is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)


def _is_vision(name: str) -> bool:
    return any(word in name for word in ("vision", "visual", "projector", "connector", "image_newline"))
