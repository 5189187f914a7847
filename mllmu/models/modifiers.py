"""Changes that act while a model runs: neurons switched off, a vector added, adapters chosen by a gate, logits lowered.

A modifier lies in a folder as plain JSON and safetensors, and the folder is one of the adapters of a
:class:`mllmu.core.records.ModelRef`, so everything that loads the model gets the modified one: evaluation, judges,
attacks. Leave the folder out of the list and the model is as before.

Every modifier decides token by token, from nothing but what the model has computed for that token and those it attends
to. A cached prefix, a packed batch and one question alone therefore get the same result.

Shapes: B rows, T tokens of a pass, S tokens with the cached ones, D hidden size, R requests, r rank.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

from mllmu.core.runfolder import write_atomic
from mllmu.models.devices import kept_activations
from mllmu.models.engine.forward import MODIFIER
from mllmu.models.engine.tree import current_pass
from mllmu.models.families import core
from mllmu.models.gate import Gate
from mllmu.models.layers import check_second_pass, decoder_layers
from mllmu.models.weights import WEIGHTS_FILE, plain_weight, switch_off

MODIFIER_FILE = "modifier.json"
TENSOR_FILE = "modifier.safetensors"
# what the installed transformers calls the keys and values of earlier tokens, in calls and in outputs
CACHE = "cache" if "cache" in {field.name for field in fields(BaseModelOutputWithPast)} else "past_key_values"


class ModifierSettings(BaseModel):
    """The content of ``modifier.json``.

    Attributes:
        layer: index of the layer whose output is read, and for ``steering`` changed.
        strength: factor of the change.
        facts: measurements of when it was made, for the reader.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["logit_steering", "steering", "experts", "pruned"]
    layer: int = 0
    strength: float = 1.0
    facts: dict[str, float] = {}


def write_settings(folder: Path, settings: ModifierSettings) -> None:
    """Write ``modifier.json``; with it the folder is a modifier."""
    write_atomic(folder / MODIFIER_FILE, json.dumps(settings.model_dump(), indent=1) + "\n")


def apply_modifier(model: Any, folder: Path) -> Any:
    """Read a modifier and let it act on a model.

    Raises:
        ValueError, OSError, KeyError: the files are missing, damaged, or made for another model.
    """
    try:
        settings = ModifierSettings.model_validate_json((folder / MODIFIER_FILE).read_text(encoding="utf-8"))
    except ValidationError as error:
        raise ValueError(f"{MODIFIER_FILE}: {error.errors()[0]['msg']}") from None
    classes: dict[str, type[Modifier]] = {
        "logit_steering": LogitSteering,
        "steering": Steering,
        "experts": Experts,
        "pruned": Pruned,
    }
    modifier = classes[settings.kind].read(settings, folder, model)
    modifier.requires_grad_(requires_grad=False)
    modifier.attach(model)
    modifier.to(model.device)
    return model


class Modifier(nn.Module):
    """Base: its parameters and buffers are trained or loaded; ``attach`` lets it act on a model."""

    def __init__(self, settings: ModifierSettings) -> None:
        super().__init__()
        self.settings = settings

    @classmethod
    @abstractmethod
    def read(cls, settings: ModifierSettings, folder: Path, model: Any) -> Modifier:
        """The modifier in a folder, for a model."""

    @abstractmethod
    def attach(self, model: Any) -> None:
        """Act on every pass of the model from now on."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are saved beside the settings; none where the folder holds the trained weights already."""
        return {}

    def register(self, model: Any) -> None:
        """Make this a part of the model, so that it moves to the model's device with it; ValueError if it cannot."""
        own = core(model)
        if any(isinstance(child, LogitSteering) for child in own.children()):
            raise ValueError("its logits are steered already, and nothing can be put on top of that")
        count = sum(isinstance(child, Modifier) for child in own.children())
        own.add_module(f"{MODIFIER}{count}", self)

    def save(self, folder: Path) -> None:
        """Write the modifier into a folder."""
        held = {name: value.detach().contiguous().cpu() for name, value in self.tensors().items()}
        if held:
            save_file(held, folder / TENSOR_FILE)
        write_settings(folder, self.settings)


class Steering(Modifier):
    """Adds a vector to the hidden state of every token at which the gate fires: h + strength * v."""

    def __init__(self, settings: ModifierSettings, gate: Gate, vector_D: Tensor) -> None:
        super().__init__(settings)
        self.gate = gate
        self.vector_D = nn.Parameter(vector_D.float())

    @classmethod
    def read(cls, settings: ModifierSettings, folder: Path, _model: Any) -> Steering:
        held = load_file(folder / TENSOR_FILE)
        return cls(settings, Gate(held["gate_RD"], held["threshold_R"]), held["vector_D"])

    def attach(self, model: Any) -> None:
        self.register(model)
        self.gate.watch(model, self.settings.layer).register_forward_hook(self._steer, with_kwargs=True)

    def _steer(self, _module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        hidden_BTD = output[0] if isinstance(output, tuple) else output
        fires_BT1 = self.gate(hidden_BTD, kwargs).sum(-1, keepdim=True)
        changed = hidden_BTD + fires_BT1 * (self.settings.strength * self.vector_D).to(hidden_BTD)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def tensors(self) -> dict[str, Tensor]:
        return {"gate_RD": self.gate.gate_RD, "threshold_R": self.gate.threshold_R, "vector_D": self.vector_D}


class Experts(Modifier):
    """One low-rank adapter per request in the layers behind a gate; a token uses the adapter its gate names, or none.

    The gate reads the output of one layer and only later layers have adapters, so no adapter can change a gate.

    Args:
        owner_GR: [G, R] 1 where a class of the gate (a person) belongs to a request.
        factors: per linear layer A [R, r, in] and B [R, out, r].
    """

    owner_GR: Tensor

    def __init__(
        self, settings: ModifierSettings, gate: Gate, owner_GR: Tensor, factors: dict[str, tuple[Tensor, Tensor]]
    ) -> None:
        super().__init__(settings)
        self.gate = gate
        self.register_buffer("owner_GR", owner_GR.float())
        self.names = list(factors)
        self.down = nn.ParameterList(nn.Parameter(down_RrI.float()) for down_RrI, _ in factors.values())
        self.up = nn.ParameterList(nn.Parameter(up_ROr.float()) for _, up_ROr in factors.values())
        self._chosen_BTR = torch.empty(0)

    @classmethod
    def read(cls, settings: ModifierSettings, folder: Path, _model: Any) -> Experts:
        held = load_file(folder / TENSOR_FILE)
        names = [name.removeprefix("down/") for name in held if name.startswith("down/")]
        factors = {name: (held[f"down/{name}"], held[f"up/{name}"]) for name in names}
        return cls(settings, Gate(held["gate_RD"], held["threshold_R"]), held["owner_GR"], factors)

    def attach(self, model: Any) -> None:
        self.register(model)
        self.gate.watch(model, self.settings.layer).register_forward_hook(self._choose, with_kwargs=True)
        for index, name in enumerate(self.names):
            core(model).get_submodule(name).register_forward_hook(partial(self._adapt, index))

    def _choose(self, _module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        chosen_BTG = self.gate(output[0] if isinstance(output, tuple) else output, kwargs)
        self._chosen_BTR = chosen_BTG @ self.owner_GR.to(chosen_BTG)

    def again(self) -> AbstractContextManager[None]:
        """Adapt later, in any thread, as is chosen now: for layers that are run again in the backward pass."""
        return self._chosen(self._chosen_BTR)

    @contextmanager
    def _chosen(self, chosen_BTR: Tensor) -> Iterator[None]:
        before, self._chosen_BTR = self._chosen_BTR, chosen_BTR
        try:
            yield
        finally:
            self._chosen_BTR = before

    def _adapt(self, index: int, _module: Any, args: Any, output_BTO: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and not self._chosen_BTR.any():
            return output_BTO
        down_RrI, up_ROr = self.down[index].to(args[0]), self.up[index].to(args[0])
        small_BTRr = torch.einsum("bti,rki->btrk", args[0], down_RrI) * self._chosen_BTR.to(args[0])[..., None]
        return output_BTO + self.settings.strength * torch.einsum("btrk,rok->bto", small_BTRr, up_ROr)

    def tensors(self) -> dict[str, Tensor]:
        held = {"gate_RD": self.gate.gate_RD, "threshold_R": self.gate.threshold_R, "owner_GR": self.owner_GR}
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            held |= {f"down/{name}": down, f"up/{name}": up}
        return held


class Pruned(Modifier):
    """Switches neurons off when the model is loaded, in the layers that read them: see ``switch_off``."""

    def __init__(self, settings: ModifierSettings, masks: dict[str, Tensor]) -> None:
        super().__init__(settings)
        self.masks = masks

    @classmethod
    def read(cls, settings: ModifierSettings, folder: Path, _model: Any) -> Pruned:
        return cls(settings, load_file(folder / TENSOR_FILE))

    def attach(self, model: Any) -> None:
        for name, off_F in self.masks.items():
            layer = core(model).get_submodule(name)
            if layer.in_features != len(off_F):
                raise ValueError(f"{name} reads {layer.in_features} neurons, the mask has {len(off_F)}")
            switch_off(layer, off_F)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.masks)


class LogitSteering(Modifier):
    """Two passes, plain and reinforced, and logits = plain - strength * relu(reinforced - plain).

    The reinforced model is the same one with changed weights, kept as differences: factors of adapters, or whole
    matrices and biases. The body of the model returns both hidden states side by side, [B, T, 2D], and its head turns
    them into one vector of logits, so code that runs body and head apart needs to know nothing about it. The keys and
    values of the second pass are further layers of the same cache.
    """

    def __init__(self, settings: ModifierSettings, changes: dict[str, tuple[Tensor, ...]]) -> None:
        super().__init__(settings)
        self.changes = list(changes)
        self.parts = nn.ModuleList(nn.ParameterList(parts) for parts in changes.values())
        self._reinforced = False

    @classmethod
    def read(cls, settings: ModifierSettings, folder: Path, model: Any) -> LogitSteering:
        changes: dict[str, tuple[Tensor, ...]] = {}
        if (folder / WEIGHTS_FILE).is_file():
            for name, reinforced in load_file(folder / WEIGHTS_FILE).items():
                module, _, part = name.rpartition(".")
                layer = core(model).get_submodule(module)
                plain = {"weight": plain_weight(layer), "bias": layer.bias}.get(part)
                if plain is None:
                    raise ValueError(f"the base has no layer with {name}, so nothing can be kept as a difference to it")
                change = (reinforced - plain.to(reinforced)).to(layer.weight)
                changes[module] = (*changes.get(module, ()), change)
            return cls(settings, changes)
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        if config.get("use_dora") or config.get("use_rslora"):
            raise ValueError("only plain low-rank adapters can be applied to logits")
        held, scale = load_file(folder / SAFETENSORS_WEIGHTS_NAME), config["lora_alpha"] / config["r"]
        for name in {key.rpartition(".lora_")[0]: None for key in held}:
            factors = (held[f"{name}.lora_A.weight"], scale * held[f"{name}.lora_B.weight"])
            changes[name.removeprefix("base_model.model.")] = factors
        return cls(settings, changes)

    def attach(self, model: Any) -> None:
        own = core(model)
        if any(isinstance(module, (LogitSteering, Gate)) for module in own.modules()):
            raise ValueError("the model is steered already, and logits can only be steered on a plain one")
        check_second_pass(own, self.changes)
        self.register(model)
        for name, parts in zip(self.changes, self.parts, strict=True):
            own.get_submodule(name).register_forward_hook(partial(self._change, parts))
        self._num_layers = len(decoder_layers(model))
        self._config = own.config.get_text_config()
        own.model.register_forward_hook(self._run_again, with_kwargs=True)
        own.lm_head.register_forward_pre_hook(self._apart)
        own.lm_head.register_forward_hook(self._combine)

    def _change(self, parts: nn.Module, _module: Any, args: Any, output: Tensor) -> Tensor:
        if not self._reinforced:
            return output
        added = args[0]
        for matrix in (part for part in parts.parameters() if part.ndim == 2):
            added = nn.functional.linear(added, matrix.to(added))
        for bias in (part for part in parts.parameters() if part.ndim == 1):
            added = added + bias.to(added)
        return torch.add(output, added)

    def _run_again(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        cache = getattr(output, CACHE, None)
        own = DynamicCache(config=self._config)
        if cache is not None and len(cache.layers) > self._num_layers:
            own.layers = list(cache.layers[self._num_layers :])
        self._reinforced = True
        if (tree_pass := current_pass()) is not None:
            tree_pass.offset = self._num_layers  # the second pass is kept as if by further layers
        try:
            with kept_activations(module):
                # not the module itself, which would run this again
                second = module.forward(*args, **{**kwargs, CACHE: None if cache is None else own})
        finally:
            self._reinforced = False
            if tree_pass is not None:
                tree_pass.offset = 0
        if cache is not None:
            cache.layers[self._num_layers :] = own.layers
        output.last_hidden_state = torch.cat([output.last_hidden_state, second.last_hidden_state], dim=-1)
        return output

    def _apart(self, _module: Any, args: Any) -> Any:
        return (torch.stack(args[0].chunk(2, dim=-1)), *args[1:])

    def _combine(self, _module: Any, _args: Any, output: Tensor) -> Tensor:
        plain: Tensor = output[0]
        reinforced: Tensor = output[1]
        return plain - (reinforced - plain).relu() * self.settings.strength
