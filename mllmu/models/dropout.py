"""Dropout of adapters as a function of what is dropped: step, layer, sample, place in the sample and feature.

torch draws the noise of a pass in the order of its numbers, so the same question would lose other numbers in another
part of a step, in another process, or in another layout. Here a number is lost if a hash of what it is says so::

    u = a * b mod 2^32,    lost if u < p * 2^32 (as a signed number, from -2^31)

``a`` is an odd random number of the token (its key and the step's seed), ``b`` one of the layer's feature. For every
token u is uniform and independent over features, for every feature over tokens. Integers wrap alike on every device,
so a mask has the same bits on a CPU and a GPU, and it is the same when a layer is run again for its gradient.

A token's key is a hash of all tokens up to it, with that of the sample in front, or, in packed sequences, that of the
images: questions that share a prefix share its noise, whoever else is in the sequence.

Shapes: B sequences, T tokens, I images, P places in an image, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mllmu.core.process import derive
from mllmu.models.encoding import Encoder
from mllmu.models.families import Turn, core

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Constants of the generator splitmix64 (Steele, Lea, Flood 2014)."""
ADAPTERS = "lora_dropout"
"""PEFT's name of the dropouts of a layer, by adapter."""


class AdapterNoise:
    """What the dropouts of one model share: the numbers of the tokens of the pass that is running."""

    def __init__(self) -> None:
        self.tokens_BT: Tensor | None = None
        self.images_I: Tensor | None = None

    @contextmanager
    def drawn(self, tokens_BT: Tensor | None, images_I: Tensor | None) -> Iterator[None]:
        """Draw for these tokens and images while the context lasts; None: by place in the tensors alone."""
        before = self.tokens_BT, self.images_I
        self.tokens_BT, self.images_I = tokens_BT, images_I
        try:
            yield
        finally:
            self.tokens_BT, self.images_I = before

    def keys(self, encoder: Encoder, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """Keys of a batch of one row per turn: of "tokens" [B, T], filled up to the longest, and of "images" [I].

        Every sample has noise of its own, from its first token on.
        """
        starts = [derive(0, turn.person, turn.prompt, *_names(turn)) for turn in turns]
        images = [
            derive(start, *image) for t, start in zip(turns, starts, strict=True) for image in enumerate(_names(t))
        ]
        ids = ([*encoder.prompt(turn), *encoder.reply(turn.reply)] for turn in turns)
        return _keys([token_keys(row, start) for row, start in zip(ids, starts, strict=True)], images)

    def packed_keys(self, turns: Sequence[Turn], sequences: Sequence[Sequence[Any]]) -> dict[str, Tensor]:
        """Keys of packed sequences of groups: as :meth:`keys`, but a prefix has noise of its own, by its images."""
        rows, images = [], []
        for sequence in sequences:
            row = []
            for group in sequence:
                names = _names(turns[group.turns[0]])
                start = derive(0, *names)
                images += [derive(start, *image) for image in enumerate(names)]
                row.append(token_keys(group.prefix, start))
                end = int(row[-1][-1]) if len(group.prefix) else start
                row += [token_keys([*rest, *reply], end, len(group.prefix)) for rest, reply in group.blocks]
            rows.append(np.concatenate(row))
        return _keys(rows, images)

    def of_batch(self, keys: dict[str, Tensor]) -> AbstractContextManager[None]:
        """Draw for a batch by its keys (see :meth:`keys`), with the seed that torch was last given."""
        return self.drawn(odd(keys["tokens"]), keys["images"])

    def again(self) -> AbstractContextManager[None]:
        """Draw later, in any thread, what is drawn now."""
        return self.drawn(self.tokens_BT, self.images_I)

    def numbers(self, shape: torch.Size, device: torch.device) -> Tensor:
        """[..., 1] the odd numbers ``a`` of the rows of an input: of tokens, of the places of images, or of places."""
        rows = shape[:-1]
        if self.tokens_BT is not None and self.tokens_BT.shape == rows:
            return self.tokens_BT[..., None]
        places = torch.arange(math.prod(rows), device=device).view(rows)
        if self.images_I is not None and len(rows) == 2 and len(self.images_I) == rows[0]:
            places = places[0] + self.images_I[:, None]
        return odd(places)[..., None]


class SeededDropout(nn.Module):
    """Dropout with probability p whose mask is a function of its input's place, see the module.

    Args:
        name: of the layer; two layers draw independently.
        noise: what the layers of the model share.
    """

    def __init__(self, p: float, name: str, noise: AdapterNoise) -> None:
        super().__init__()
        self.p, self.name, self.noise = p, name, noise
        self.least = min(round(p * 2**32), 2**32 - 1) - 2**31
        self._features: dict[tuple[int, torch.device], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        dropped: Tensor = _Dropped.apply(x, self.kept(x.shape, x.device), 1 / (1 - self.p))
        return dropped

    def kept(self, shape: torch.Size, device: torch.device) -> Tensor:
        """True where a number of an input of this shape is kept."""
        size = (shape[-1], device)
        if size not in self._features:
            self._features[size] = torch.from_numpy(feature_numbers(self.name, shape[-1])).to(device)
        return (self.noise.numbers(shape, device) * self._features[size]).ge(self.least)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class _Dropped(torch.autograd.Function):
    """x * mask * scale in one operation, which keeps the mask alone for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        dropped: Tensor = torch.ops.aten.native_dropout_backward(x, mask, scale)
        return dropped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return torch.ops.aten.native_dropout_backward(gradients[0], ctx.saved_tensors[0], ctx.scale), None, None


def seed_dropout(model: Any, trained: str) -> None:
    """Let the trained adapter of a model drop by place, and no other adapter drop anything.

    A frozen adapter is a part of the model, which has no noise: trained beside it, a fresh adapter begins at the very
    model that it is on.

    Args:
        model: with adapters, in place.
        trained: PEFT's name of the one that is trained.
    """
    own, noise, drops = core(model), AdapterNoise(), False
    for name, layer in own.named_modules():
        for adapter, dropout in getattr(layer, ADAPTERS, {}).items():
            p = getattr(dropout, "p", 0.0) if adapter == trained else 0.0
            getattr(layer, ADAPTERS)[adapter] = SeededDropout(p, name, noise) if p else nn.Identity()
            drops = drops or p > 0
    own.noise = noise if drops else None


def odd(key: Tensor) -> Tensor:
    """Odd int32 numbers drawn from int64 keys and the seed that torch was last given."""
    mixed = (key ^ (torch.initial_seed() >> 1)) * _signed(FIRST)
    mixed = (mixed ^ (mixed >> 29)) * _signed(SECOND)
    return (mixed >> 32).to(torch.int32) | 1


def feature_numbers(name: str, size: int) -> np.ndarray[Any, Any]:
    """[D] the odd int32 numbers ``b`` of a layer's features."""
    drawn = _mixed(np.arange(size, dtype=np.uint64) * GOLDEN + np.uint64(derive(0, "dropout", name)))
    return (drawn >> np.uint64(32)).astype(np.uint32).view(np.int32) | 1


def token_keys(ids: Sequence[int], start: int, place: int = 0) -> np.ndarray[Any, Any]:
    """[T] key of every token: a hash of it and all before it, behind ``start``, the key before place ``place``.

    key_t = start + sum of mix(token_s, s) for s <= t,  mod 2^64
    """
    places = np.arange(place, place + len(ids), dtype=np.uint64)
    mixed = _mixed(np.asarray(ids, dtype=np.uint64) * FIRST + (places + np.uint64(1)) * GOLDEN)
    keys: np.ndarray[Any, Any] = np.cumsum(mixed, dtype=np.uint64) + np.uint64(start % 2**64)
    return keys


def _keys(rows: Sequence[np.ndarray[Any, Any]], images: Sequence[int]) -> dict[str, Tensor]:
    filled = np.zeros((len(rows), max(map(len, rows))), dtype=np.uint64)
    for row, keys in zip(filled, rows, strict=True):
        row[: len(keys)] = keys
    return {"tokens": torch.from_numpy(filled.view(np.int64)), "images": torch.tensor(images, dtype=torch.int64)}


def _names(turn: Turn) -> list[str]:
    return [image.name for image in turn.images]


def _mixed(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """splitmix64's last step: 64 bits to 64 bits, each depends on all."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(FIRST)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(SECOND)
    mixed: np.ndarray[Any, Any] = value ^ (value >> np.uint64(31))
    return mixed


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
