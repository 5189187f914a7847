"""Pictures on their way into the language model: what a frozen vision tower makes of them is computed once.

All questions of a run show the same few pictures, and vision tower and projector are the same in every model of it. So
their features are remembered, by picture and by the weights they went through, for all steps, epochs, methods and
evaluations. Families say with ``picture_parts`` whether this is all that a picture goes through; for others, and where
one of these parts is being trained, pictures are put in as pixels.

Shapes: B rows, T tokens, F picture tokens, D hidden size of the language model.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mllmu.core.errors import ModelError
from mllmu.models.families import Turn
from mllmu.models.loading import Loaded
from mllmu.models.parts import core

FEATURES = "picture_features"
"""Among the inputs of a batch: [F, D] the features of its pictures, in order, instead of their pixels."""
MOST_BYTES = 2**30
"""Memory of the remembered features of a run; the longest unused go first."""


class FeatureMemory:
    """Features [F, D] of pictures, by picture and vision tower, up to a number of bytes."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self._held: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, key: tuple[Any, ...]) -> Tensor | None:
        """What was kept under a key, if it still is."""
        if key in self._held:
            self._held.move_to_end(key)
        return self._held.get(key)

    def keep(self, key: tuple[Any, ...], features: Tensor) -> None:
        """Keep features; drops the longest unused ones if they get too many."""
        self._held[key] = features
        self._bytes += features.nbytes
        while self._bytes > self.most_bytes and len(self._held) > 1:
            self._bytes -= self._held.popitem(last=False)[1].nbytes


_memories: WeakKeyDictionary[Any, FeatureMemory] = WeakKeyDictionary()
_identities: WeakKeyDictionary[Any, tuple[tuple[int, ...], str]] = WeakKeyDictionary()


def picture_inputs(loaded: Loaded, turns: Sequence[Turn]) -> dict[str, Tensor]:
    """The pictures of turns whose prompts have been encoded: as features if the tower is frozen, else as pixels."""
    shown = [turn.pictures for turn in turns if turn.pictures]
    found = features_of(loaded, shown)
    if not shown or found is None:
        return loaded.encoder.pictures(turns)
    return {FEATURES: torch.cat([features for one in found for features in one])}


def features_of(loaded: Loaded, shown: Sequence[Sequence[Path]]) -> list[list[Tensor]] | None:
    """The features [F, D] of every picture of some turns; None if pictures must go in as pixels.

    Each picture is run alone, so its features do not depend on when and with which others it was first asked for.
    """
    if not _frozen(loaded):
        return None
    memory, tower = _memories.setdefault(loaded.encoder, FeatureMemory()), None
    found: dict[Path, Tensor] = {}
    for picture in dict.fromkeys(picture for pictures in shown for picture in pictures):
        tower = tower or _identity(loaded)
        key = (picture, tower, str(loaded.device))
        features = memory.get(key)
        if features is None:
            features = _features(loaded, picture)
            memory.keep(key, features)
        found[picture] = features
    return [[found[picture] for picture in pictures] for pictures in shown]


def _features(loaded: Loaded, picture: Path) -> Tensor:
    model, turn = core(loaded.model), Turn(prompt="?", image=picture)
    tokens = loaded.encoder.prompt(turn).count(-1 if loaded.image_token_id is None else loaded.image_token_id)
    training = model.training
    if training:
        model.eval()
    try:
        # the features outlive an evaluation and are trained on later, so they must be ordinary tensors
        with torch.inference_mode(mode=False), torch.no_grad():
            pixels = {key: value.to(loaded.device).clone() for key, value in loaded.encoder.pictures([turn]).items()}
            features = loaded.family.picture_features(model, pixels)
    finally:
        if training:
            model.train()
    if len(features) != tokens:  # every later picture of a batch would get a part of the one before
        raise ModelError(
            f"{picture}: the processor gives it {tokens} tokens and the model {len(features)} features. The processor "
            f"({type(loaded.encoder.processor).__name__}) does not fit the model; 'mllmu doctor' names its settings."
        )
    return features


def _parts(loaded: Loaded) -> list[Any]:
    return [getattr(core(loaded.model).model, name) for name in loaded.family.picture_parts]


def _frozen(loaded: Loaded) -> bool:
    """Everything that pictures go through is known and not being trained."""
    parts = _parts(loaded)
    trained = any(p.requires_grad for part in parts for p in part.parameters())
    # an adapter inside can be switched off, which the weights do not tell
    adapted = any("lora_" in name for part in parts for name, _ in part.named_parameters())
    return bool(parts) and not adapted and not (trained and torch.is_grad_enabled())


def _identity(loaded: Loaded) -> str:
    """SHA-256 of the weights that pictures go through; read again only where they have been written to since."""
    parts = _parts(loaded)
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    versions = tuple(tensor._version for tensor in tensors)
    known = _identities.get(parts[0])
    if known is None or known[0] != versions:
        hasher = hashlib.sha256()
        for tensor in tensors:
            hasher.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        _identities[parts[0]] = known = (versions, hasher.hexdigest())
    return known[1]


def embedded(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs as the model takes them: picture features, if given, are put among the embeddings of the tokens.

    This is what the models do themselves after their vision tower: every picture token becomes a row of features.
    """
    if FEATURES not in inputs:
        return inputs
    own = core(model)
    ids_BT = inputs["input_ids"]
    tokens_BTD = own.get_input_embeddings()(ids_BT)
    places_BT1 = (ids_BT == own.config.image_token_id)[..., None]
    embeds_BTD = tokens_BTD.masked_scatter(places_BT1, inputs[FEATURES].to(tokens_BTD.dtype))
    return {"inputs_embeds": embeds_BTD, **{k: v for k, v in inputs.items() if k not in ("input_ids", FEATURES)}}
