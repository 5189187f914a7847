"""What one training step allocates and computes, found by running it on tensors without content.

The real forward and backward pass of the real model class is run on fake tensors, which have shapes but no data, while
every storage that comes and goes is counted. So the result follows the model's own code, adapters and attention kernel
included, and no formula per family is needed. Two runs, of one and of two layers, give the cost of the whole model:
everything in it is linear in the number of layers.

Shapes: B sequences, T tokens, N labelled tokens of all sequences together, D hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import weakref
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from mllmu.config.recipe import Lora
from mllmu.models.engine.forward import apply_head
from mllmu.models.engine.fused import fuse
from mllmu.models.families import Family, core
from mllmu.models.loading import DEEP, add_trainable, quiet_libraries


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def track(self, tensor: Tensor) -> None:
        """Count a tensor's storage until it is freed; views of one storage count once."""
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, storage.nbytes())

    def _freed(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self.track(value)
        return out


class Cost(NamedTuple):
    """Bytes and floating-point operations of one pass.

    Attributes:
        kept: bytes that the forward pass keeps for the backward pass.
        peak: the most bytes alive at once in forward and backward, beyond weights and optimiser.
        forward, both: operations of the forward pass alone, and of both passes.
    """

    kept: float
    peak: float
    forward: float
    both: float

    def plus(self, other: Cost, times: float) -> Cost:
        """self + times * other, field by field."""
        return Cost(*(own + times * more for own, more in zip(self, other, strict=True)))


@dataclass(frozen=True, kw_only=True)
class ModelOutline:
    """What decides what a step costs: the model but for its weights.

    Attributes:
        described: the config in words, which tells outlines apart.
        config: with the precision and the attention kernel that are used.
    """

    described: str
    family: Family = field(compare=False)
    packs: bool
    config: Any = field(compare=False)

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return int(self.config.dtype.itemsize)


def outline(config: Any, family: Family, *, packs: bool) -> ModelOutline:
    """The outline of a model by its config, in the precision and with the kernel that the config says."""
    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config  # activations are those of the model in its own precision
    described = f"{plain.to_json_string(use_diff=False)} {plain.dtype} {plain._attn_implementation} {family.name}"
    return ModelOutline(described=described, family=family, packs=packs, config=plain)


def build(config: Any) -> Any:
    """A model with the precision and attention kernel in its config; under a device of its own."""
    kernel = config._attn_implementation
    return AutoModelForImageTextToText.from_config(config, dtype=config.dtype, attn_implementation=kernel)


def step_cost(
    model: ModelOutline, lora: Lora | None, sequences: int, tokens: int, labelled: int, *, recompute: bool
) -> Cost:
    """The cost of a step of B sequences of T tokens with N labelled ones; vision is not run (it keeps nothing).

    With gradient checkpointing a layer keeps its input, and is run once more.
    """
    one, two = (_run(model, lora, count, sequences, tokens, labelled) for count in (1, 2))
    text = model.config.get_text_config()
    layer, layers = two.plus(one, -1), int(text.num_hidden_layers)
    rest = one.plus(layer, -1)
    if not recompute:
        return rest.plus(layer, layers)
    kept = layers * sequences * tokens * int(text.hidden_size) * model.width
    rebuilt = layer.peak + one.peak - one.kept  # one layer at a time, when the head's part is gone already
    return Cost(
        kept=kept + rest.kept,
        peak=kept + max(rest.peak, rebuilt),
        forward=rest.forward + layers * layer.forward,
        both=rest.both + layers * (layer.both + layer.forward),
    )


def with_layers(config: Any, count: int) -> Any:
    """The config of the same model with fewer layers, in its vision tower too."""
    smaller = copy.deepcopy(config)
    text, vision = smaller.get_text_config(), getattr(smaller, "vision_config", None)
    text.num_hidden_layers = count
    if getattr(text, "layer_types", None):
        text.layer_types = list(text.layer_types)[:count]
    for name in ("num_hidden_layers", "depth"):
        if isinstance(getattr(vision, name, None), int):
            setattr(vision, name, 1)
    if hasattr(smaller, "vision_feature_layer"):
        smaller.vision_feature_layer = -1
    return smaller


@cache
def _run(outlined: ModelOutline, lora: Lora | None, layers: int, sequences: int, tokens: int, labelled: int) -> Cost:
    """Forward and backward pass of one side of a step on fake tensors, of the model with fewer layers."""
    with torch.device("meta"), quiet_libraries():
        model = add_trainable(build(with_layers(outlined.config, layers)), outlined.family, lora, seed=0).train()
    own = core(model)
    deep = int(outlined.config.get_text_config().num_hidden_layers) >= DEEP
    if lora and (
        deep or outlined.width < torch.float32.itemsize
    ):  # as in a run, which has low precision on a GPU alone
        fuse(model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        live = LiveBytes()
        for tensor in (*model.parameters(), *model.buffers()):
            live.track(tensor)
        before, dtype = live.live, own.get_input_embeddings().weight.dtype
        size = int(outlined.config.get_text_config().hidden_size)
        inputs = {"inputs_embeds": torch.zeros(sequences, tokens, size, dtype=dtype)}
        if outlined.packs:
            inputs["attention_mask"] = torch.zeros(sequences, 1, tokens, tokens, dtype=dtype)
            inputs["position_ids"] = torch.zeros(sequences, tokens, dtype=torch.long)
        with FlopCounterMode(display=False) as counter, live:
            hidden_BTD = own.model(**inputs, use_cache=False).last_hidden_state
            hidden_ND = hidden_BTD.flatten(0, 1)[torch.zeros(labelled, dtype=torch.long)]
            logits_NV = apply_head(own, hidden_ND).float()
            loss = F.cross_entropy(logits_NV, torch.zeros(labelled, dtype=torch.long))
            kept, forward = live.live - before, counter.get_total_flops()
            loss.backward()
    return Cost(kept=kept, peak=live.peak - before, forward=forward, both=counter.get_total_flops())
