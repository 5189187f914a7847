"""Deep models in training: adapters, norms and rotations in few operations, with the results of the modules themselves.

PEFT runs every adapter by itself: for each of LLaVA-1.5's 224 some 40 operations, most of them on few numbers, and in
float32 beside a bfloat16 base. Here layers that read the same input (queries, keys and values; gate and up) are one
:class:`AdapterGroup`, and a group is one function with a gradient of its own::

    out_i = x W_i^T + b_i + s a_i B_i^T,    a = dropout(x) A^T,  A: the A_i of the group, row below row

in the precision of x, with products summed in float32. Kept for the gradient are dropout(x), or x, and a. The layers
of a group share one dropout of their input. Modules, parameters, their names and files stay PEFT's. All of it works
only where a gradient is wanted. An evaluation runs the modules' own code, whatever the process has trained before; on a
GPU, always, that of :func:`answering` in the place of norms and attention.

Shapes: M tokens of all sequences, D features of an input, O of an output, R ranks of the adapters of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm, eager_attention_forward

from mllmu.models.dropout import SeededDropout
from mllmu.models.families import core
from mllmu.models.weights import AdaptedLinear

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that models call one after the other with the same input; any others are groups of their own."""
TURNED = "_mllmu_transposed"
"""Where a parameter remembers its transpose."""
SAME = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""How far apart, relative to the largest number, a norm and what stands in for it may be."""


def fuse(model: Any) -> None:
    """Let the adapters, norms and attention of a model work in few operations, where they are of a known kind."""
    attention = Attention()
    for module in core(model).modules():
        children = dict(module.named_children())
        alone = ((name,) for name in children if not any(name in names for names in SIBLINGS))
        for names in (*SIBLINGS, *alone):
            if layers := [children[name] for name in names if type(children.get(name)) is LoraLinear]:
                AdapterGroup(layers)
        if type(module) is LlamaAttention:
            module.forward = partial(attention.forward, module)
        if is_rms_norm(module) and not module.weight.requires_grad:
            module.forward = partial(_norm, module)


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Let norms and attention work in few operations while a model answers, where they are of a known kind."""
    attention = Attention(gradients=False)
    changed = []
    for module in core(model).modules():
        if "forward" not in module.__dict__ and (type(module) is LlamaAttention or is_rms_norm(module)):
            own = partial(attention.forward, module) if type(module) is LlamaAttention else partial(_quick_norm, module)
            module.forward = own
            changed.append(module)
    try:
        yield
    finally:
        for module in changed:
            del module.__dict__["forward"]


class AdapterGroup:
    """LoRA layers with one input. The first that is called computes what all of them give, the others fetch it."""

    def __init__(self, layers: Sequence[LoraLinear]) -> None:
        self.layers = layers
        self.x: Tensor | None = None
        self.outputs: dict[int, Tensor] = {}
        for number, layer in enumerate(layers):
            layer.forward = partial(self.forward, number)

    def forward(self, number: int, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What one of the layers gives for an input."""
        if self.x is not x or number not in self.outputs:
            layer = self.layers[number]
            if args or kwargs or not torch.is_grad_enabled() or not all(map(is_plain, self.layers)):
                output: Tensor = type(layer).forward(layer, x, *args, **kwargs)
                return output
            self.x, self.outputs = x, dict(enumerate(run_group(self.layers, x)))
        output = self.outputs.pop(number)
        if not self.outputs:
            self.x = None
        return output


def is_plain(layer: LoraLinear) -> bool:
    """A frozen float layer beside which ordinary adapters are at work, and nothing else: what hooks it is kept."""
    base = layer.base_layer
    return (
        not (layer.disable_adapters or layer.merged or layer.lora_variant or layer.fan_in_fan_out)
        and not any(layer.lora_bias.values())
        and all(isinstance(each, nn.Identity | SeededDropout) for each in layer.lora_dropout.values())
        and type(base) in (nn.Linear, AdaptedLinear)
        and "forward" not in base.__dict__
        and not (base._forward_hooks or base._forward_pre_hooks)
        and not base.weight.requires_grad
    )


class AdapterTerm(NamedTuple):
    """One adapter of a group.

    Attributes:
        own: numbers of its layers.
        scale: factor of what it adds.
        trained: its A and B need a gradient.
        down, up: the A and B of its layers.
        mask, keep: [..., D] the numbers of the input that its dropout keeps, and 1 / their share; None: all, and 1.
    """

    own: list[int]
    scale: float
    trained: bool
    down: list[Tensor]
    up: list[Tensor]
    mask: Tensor | None
    keep: float


def run_group(layers: Sequence[LoraLinear], x: Tensor) -> tuple[Tensor, ...]:
    """The outputs of the layers of a group for an input."""
    terms = []
    if own := [number for number, layer in enumerate(layers) if isinstance(layer.base_layer, AdaptedLinear)]:
        earlier = [layers[number].base_layer for number in own]
        factors = [layer.down_RI for layer in earlier], [layer.up_OR for layer in earlier]
        terms.append(AdapterTerm(own, 1, False, *factors, None, 1.0))
    for name in dict.fromkeys(name for layer in layers for name in layer.active_adapters):
        own = [number for number, layer in enumerate(layers) if name in layer.lora_A]
        if not own:
            continue
        first = layers[own[0]]
        dropout = first.lora_dropout[name]
        drops = isinstance(dropout, SeededDropout) and dropout.training
        mask, keep = (dropout.kept(x.shape, x.device), 1 / (1 - dropout.p)) if drops else (None, 1.0)
        down, up = ([getattr(layers[n], part)[name].weight for n in own] for part in ("lora_A", "lora_B"))
        trained = any(weight.requires_grad for weight in (*down, *up))
        terms.append(AdapterTerm(own, first.scaling[name], trained, down, up, mask, keep))
    weights = [weight for term in terms for weight in (*term.down, *term.up)]
    outputs: tuple[Tensor, ...] = _Adapted.apply([layer.base_layer for layer in layers], terms, x, *weights)
    return outputs


class _Adapted(torch.autograd.Function):
    """The frozen layers of a group and their adapters: gets layers, adapters, input, and weights of the adapters."""

    @staticmethod
    def forward(ctx: Any, bases: Any, terms: Sequence[AdapterTerm], x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        del weights  # those of the terms
        x_MD = x.reshape(-1, x.shape[-1])
        outputs = [_multiply(x_MD, base) for base in bases]
        kept: list[Tensor] = []
        for term in terms:
            own, down = term.own, term.down
            mask_MD = None if term.mask is None else term.mask.view(x_MD.shape)
            seen_MD = x_MD if mask_MD is None else torch.ops.aten.native_dropout_backward(x_MD, mask_MD, term.keep)
            down_RD = (down[0] if len(own) == 1 else torch.cat(down)).to(x.dtype)
            ups = [up_OR.to(x.dtype) for up_OR in term.up]
            a_MR = seen_MD @ transposed(down_RD)
            parts = _parts(a_MR if term.scale == 1 else a_MR * term.scale, down, dim=1)
            for number, part_MR, up_OR in zip(own, parts, ups, strict=True):
                outputs[number].addmm_(part_MR, transposed(up_OR))
            kept += [down_RD, *ups, *((seen_MD, *parts) if term.trained else ())]
            kept += [] if mask_MD is None else [mask_MD]
        ctx.save_for_backward(*kept)
        ctx.terms = [(term._replace(mask=None), term.mask is not None) for term in terms]
        ctx.layers, ctx.shape = [base.weight for base in bases], x.shape
        return tuple(output.view(*x.shape[:-1], -1) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *of_outputs: Tensor) -> tuple[Any, ...]:
        kept, gradients = iter(ctx.saved_tensors), [each.reshape(-1, each.shape[-1]) for each in of_outputs]
        of_x = _sum(list(zip(gradients, ctx.layers, strict=True))) if ctx.needs_input_grad[2] else None
        of_weights: list[Tensor | None] = []
        for term, drops in ctx.terms:
            own = [gradients[number] for number in term.own]
            down_RD, *ups = (next(kept) for _ in range(1 + len(own)))
            of_a = [g @ up_OR for g, up_OR in zip(own, ups, strict=True)]
            of_a_MR = of_a[0] if len(own) == 1 else torch.cat(of_a, dim=1)
            of_a_MR = of_a_MR if term.scale == 1 else of_a_MR * term.scale
            of_weights += _of_weights(term, own, of_a_MR, kept) if term.trained else [None] * (2 * len(own))
            if drops:
                mask_MD = next(kept)
                of_x = None if of_x is None else of_x.addcmul_(of_a_MR @ down_RD, mask_MD, value=term.keep)
            elif of_x is not None:
                of_x.addmm_(of_a_MR, down_RD)
        return None, None, None if of_x is None else of_x.view(ctx.shape), *of_weights


def _multiply(x_MD: Tensor, layer: nn.Linear) -> Tensor:
    turned = transposed(layer.weight)
    return x_MD @ turned if layer.bias is None else torch.addmm(layer.bias, x_MD, turned)


def _parts(tensor: Tensor, like: Sequence[Tensor], dim: int) -> Sequence[Tensor]:
    """A tensor of ranks cut into those of each layer."""
    return (tensor,) if len(like) == 1 else tensor.split([len(each) for each in like], dim=dim)


def _sum(factors: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    total = factors[0][0] @ factors[0][1]
    for a, b in factors[1:]:
        total.addmm_(a, b)
    return total


def _of_weights(term: AdapterTerm, own: Sequence[Tensor], of_a_MR: Tensor, kept: Iterator[Tensor]) -> list[Tensor]:
    """The gradients of the A and then the B of an adapter."""
    x_MD = next(kept)
    of_down = _parts(product(of_a_MR.t(), x_MD, term.down[0].dtype), term.down, dim=0)
    return [*of_down, *(product(g.t(), next(kept), term.up[0].dtype) for g in own)]


def transposed(weight: Tensor) -> Tensor:
    """The transpose of a parameter, remembered, as even a view is an operation; of other tensors a new one."""
    if not isinstance(weight, nn.Parameter):
        return weight.t()
    known: Tensor | None = weight.__dict__.get(TURNED)
    if known is None or known.data_ptr() != weight.data_ptr():
        known = weight.__dict__[TURNED] = weight.detach().t()
    return known


def product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a @ b in a precision that may be higher than theirs; not rounded to theirs in between where the device can."""
    if a.dtype == dtype:
        return a @ b
    return torch.mm(a, b, out_dtype=dtype) if a.is_cuda else (a @ b).to(dtype)


def is_rms_norm(module: Any) -> bool:
    """Whether a module is what :func:`rms_norm` computes; tried on random numbers, or known where there are none."""
    weight, eps = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if eps is None or not isinstance(weight, Tensor) or weight.ndim != 1:
        return False
    if weight.is_meta:
        return type(module) is LlamaRMSNorm
    x = torch.randn(8, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        expected, found = module(x).float(), rms_norm(x, weight, eps).float()
    return bool((expected - found).abs().max() <= SAME.get(x.dtype, 0) * expected.abs().max())


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """weight * x / sqrt(mean(x^2) + eps) over the last axis, computed in float32; the weights get no gradient."""
    if x.is_cuda:
        return F.rms_norm(x, weight_D.shape, weight_D, eps)
    normed: Tensor = _RmsNorm.apply(x, weight_D, eps)
    return normed


def _quick_norm(module: Any, hidden_states: Tensor) -> Tensor:
    return rms_norm(hidden_states, module.weight, module.variance_epsilon)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return type(module).forward(module, hidden_states)  # type: ignore[no-any-return]
    return _quick_norm(module, hidden_states)


class _RmsNorm(torch.autograd.Function):
    """With r = (mean x^2 + eps)^-1/2, n = r x and u = weight * gradient: dx = r (u - n mean(u n))."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        wide = x.float()
        r = wide.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        n = wide * r
        ctx.save_for_backward(n, r, weight_D)
        return (n * weight_D).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        n, r, weight_D = ctx.saved_tensors
        u = gradients[0].float() * weight_D
        return u.addcmul_(n, (u * n).mean(-1, keepdim=True), value=-1).mul_(r).to(gradients[0].dtype), None, None


class Attention:
    """Llama's attention without a cache, with the rotation of queries and keys in three operations each.

    rotated = x cos + swapped(x) s,  swapped(x) = (second half, first half),  s = (-sin, sin) of the halves

    Args:
        gradients: only where gradients are wanted.
    """

    def __init__(self, *, gradients: bool = True) -> None:
        self.gradients = gradients
        self.angles: Any = None
        self.cos = self.sin = torch.empty(0)

    def forward(
        self, layer: Any, hidden_states: Tensor, position_embeddings: Any, attention_mask: Any = None, **more: Any
    ) -> Any:
        """As the layer's own, which runs where a cache is used, or where no gradient is wanted."""
        unwanted = self.gradients and not torch.is_grad_enabled()
        if unwanted or any(more.get(name) is not None for name in ("cache", "past_key_values")):
            return type(layer).forward(layer, hidden_states, position_embeddings, attention_mask, **more)
        if self.angles is not position_embeddings:  # those of one pass are the same in all layers
            self.angles, (cos, sin) = position_embeddings, position_embeddings
            half = sin.shape[-1] // 2
            self.cos, self.sin = cos[:, None], torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)[:, None]
        shape = (*hidden_states.shape[:-1], -1, layer.head_dim)
        q, k, v = (
            project(hidden_states).view(shape).transpose(1, 2) for project in (layer.q_proj, layer.k_proj, layer.v_proj)
        )
        q, k = (_Rotated.apply(x, self.cos, self.sin) for x in (q, k))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(layer.config._attn_implementation, eager_attention_forward)
        dropout = layer.attention_dropout if layer.training else 0.0
        out, weights = attend(layer, q, k, v, attention_mask, dropout=dropout, scaling=layer.scaling, **more)
        return layer.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), weights


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (cos, sin) = gradients, ctx.saved_tensors
        return (gradient * cos).addcmul_(gradient.roll(gradient.shape[-1] // 2, -1), sin, value=-1), None, None
