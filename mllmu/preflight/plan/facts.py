"""Sizes of a model from its config alone, and of a portrait from its processor; no weights are read or made."""

import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor

from mllmu.config.recipe import Lora, ModelSection
from mllmu.models import misfits
from mllmu.models.engine.memory import kv_bytes
from mllmu.models.families import Family, Turn, unknown_attention
from mllmu.models.loading import (
    attention,
    choose_dtype,
    choose_family,
    choose_packing,
    explain_load_faults,
    make_encoder,
    source_of,
)
from mllmu.models.processors import change_images
from mllmu.training.cost import ModelOutline, build, outline

QUANTIZED = {"int8": 1.0, "nf4": 0.5 + 8.127 / 64 / 8}
"""Bytes per weight; nf4: four bits, and per 64 weights a scale that is itself stored in 8.127 bits."""
VISION = ("vision", "visual", "projector", "connector", "image_newline")
"""Words in the names of weights that an image goes through."""


@cache
def known(file: str) -> dict[str, dict[str, Any]]:
    """What a file of this folder says: sizes of well-known models by hub id, or of devices by name."""
    text = (resources.files("mllmu.preflight.plan") / file).read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return entries


def known_models() -> dict[str, dict[str, Any]]:
    """Sizes of well-known models by hub id."""
    return known("known_models.yaml")


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelFacts:
    """What a config says about a model.

    Attributes:
        section: the recipe's section on it.
        packs, shares: questions about one image are trained in one sequence, and asked behind one common prefix.
        parameters, vision: number of weights: all, in vision tower and projector.
        shapes: (rows, columns) of every linear layer by name.
    """

    section: ModelSection
    config: Any
    family: Family
    dtype: torch.dtype
    packs: bool
    shares: bool
    parameters: int
    vision: int
    shapes: dict[str, tuple[int, int]]

    @property
    def text(self) -> Any:
        return self.config.get_text_config()

    @cached_property
    def outline(self) -> ModelOutline:
        """What decides what a training step costs."""
        return outline(self.config, self.family, packs=self.packs)

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize

    @property
    def kv_token(self) -> int:
        """Bytes that the keys and values of one token take in the cache."""
        return kv_bytes(self.text, self.width)

    @property
    def resident(self) -> int:
        """Bytes of all weights as loaded; quantised are the linear layers of the language model."""
        if self.section.quantize is None:
            return self.parameters * self.width
        inside = (shape for name, shape in self.shapes.items() if not is_vision(name) and not name.endswith("lm_head"))
        packed = sum(rows * columns for rows, columns in inside)
        return self.parameters * self.width - round(packed * (self.width - QUANTIZED[self.section.quantize]))

    def trainable(self, lora: Lora | None) -> int:
        """Weights that are trained: rank * (inputs + outputs) per adapted layer, or the layers themselves."""
        pattern = (lora.targets if lora else None) or self.family.lora_targets
        matched = [shape for name, shape in self.shapes.items() if re.fullmatch(pattern, name)]
        if lora is None:
            return sum(rows * columns for rows, columns in matched)
        return sum(lora.rank * (rows + columns) for rows, columns in matched)


def is_vision(name: str) -> bool:
    """Whether a weight of this name is of the vision tower or the projector."""
    return any(word in name for word in VISION)


def describe(section: ModelSection, *, device: str) -> ModelFacts:
    """Read or look up the config of a base model and measure the model made from it on the meta device.

    Args:
        device: 'cpu' or 'cuda': decides precision and attention kernel as loading would.

    Raises:
        ModelError: the config can be neither found nor used; names the ids that work without a network.
    """
    entry, where = known_models().get(section.path), torch.device(device)
    dtype = choose_dtype(section.dtype, where)
    expected = "Expected 'tiny', 'smol', a folder, a hub id that can be reached, or one known without a network: "
    advice = f"{expected}{', '.join(known_models())}."
    with explain_load_faults(f"model.path: the config of '{section.path}' cannot be read", advice):
        if entry:
            config = AutoConfig.for_model(**entry["config"])
        else:
            source = source_of(section.path)
            config = AutoConfig.from_pretrained(source, revision=section.revision, trust_remote_code=False)
        family = choose_family(section.family, getattr(config, "mllmu_family", str(config.model_type)))
        config.dtype, config._attn_implementation = dtype, attention(config, where)
        with torch.device("meta"):
            model = build(config)
    return ModelFacts(
        section=section,
        config=config,
        family=family,
        dtype=dtype,
        packs=choose_packing(section, family, config),
        shares=family.shares_prefix and not unknown_attention(config.get_text_config()),
        parameters=sum(p.numel() for p in model.parameters()),
        vision=sum(p.numel() for name, p in model.named_parameters() if is_vision(name)),
        shapes={n: (m.out_features, m.in_features) for n, m in model.named_modules() if isinstance(m, nn.Linear)},
    )


def image_sizes(facts: ModelFacts, size: int) -> tuple[int, int]:
    """Image tokens and vision patches of a square portrait, found by preparing a grey one with the run's settings.

    Args:
        size: its side in pixels.

    Raises:
        ModelError: the processor can neither be read nor used.
    """
    section, entry = facts.section, known_models().get(facts.section.path)
    image = Image.new("RGB", (size, size), (128, 128, 128))
    what = f"model.path: the processor of '{section.path}' cannot be used"
    with explain_load_faults(what), tempfile.TemporaryDirectory() as folder:
        if entry:
            return _known_sizes(facts, entry, image, Path(folder))
        encoder = make_encoder(section, source_of(section.path), section.revision, facts.config)
        path = Path(folder) / "grey.png"
        image.save(path)
        turn = Turn(prompt="?", image=path)
        tokens = len(encoder.prompt(turn)) - len(encoder.prompt(Turn(prompt="?")))
        patch = getattr(getattr(facts.config, "vision_config", None), "patch_size", None)
        return tokens, math.prod(_grid(encoder.images([turn]), patch)) or 4 * tokens


def _known_sizes(facts: ModelFacts, entry: dict[str, Any], image: Image.Image, folder: Path) -> tuple[int, int]:
    """The same for a known model: by the library's image processor with the published settings and the recipe's."""
    (folder / "preprocessor_config.json").write_text(json.dumps(entry["images"]), encoding="utf-8")
    holder = SimpleNamespace(image_processor=AutoImageProcessor.from_pretrained(folder))
    change_images(holder, facts.family.image_settings | facts.section.image_processor)
    misfits.refuse_large(facts.section.path, holder)
    tensors = holder.image_processor(image, return_tensors="pt")
    tiles, patches = _grid(tensors, facts.config.vision_config.patch_size)
    merged = getattr(holder.image_processor, "merge_size", 1) ** 2
    return tiles * entry.get("tile_tokens", patches // merged), tiles * patches


def _grid(tensors: Mapping[str, torch.Tensor], patch: Any) -> tuple[int, int]:
    """Into how many tiles a prepared image is cut, and the patches of one; zeros if its tensors do not tell."""
    if "image_grid_thw" in tensors:
        return 1, int(tensors["image_grid_thw"].prod())
    pixels = tensors.get("pixel_values")
    if pixels is None or pixels.ndim < len("NCHW") or not isinstance(patch, int):
        return 0, 0
    *tiles, _, height, width = pixels.shape
    return math.prod(tiles), (height // patch) * (width // patch)
