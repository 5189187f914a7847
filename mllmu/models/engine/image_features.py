"""Images on their way into the language model: what a frozen vision tower makes of them is computed once.

All questions of a run show the same few images, and vision tower and projector are the same in every model of it. So
their features are remembered, by image and by the weights they went through, for all steps, epochs, methods and
evaluations. Families say with ``image_parts`` whether this is all that an image goes through; for others, and where
one of these parts is being trained, images are put in as pixels.

Shapes: B rows, T tokens, F image tokens, D hidden size of the language model.
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

FEATURES = "image_features"
"""Among the inputs of a batch: [F, D] the features of its images, in order, instead of their pixels."""
MOST_BYTES = 2**30
"""Memory of the remembered features of a run; the longest unused go first."""


class FeatureMemory:
    """Features [F, D] of images, by image and vision tower, up to a number of bytes."""

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


def image_inputs(loaded: Loaded, turns: Sequence[Turn]) -> dict[str, Tensor]:
    """The images of turns whose prompts have been encoded: as features if the tower is frozen, else as pixels."""
    shown = [turn.images for turn in turns if turn.images]
    found = features_of(loaded, shown)
    if not shown or found is None:
        return loaded.encoder.images(turns)
    return {FEATURES: torch.cat([features for one in found for features in one])}


def features_of(loaded: Loaded, shown: Sequence[Sequence[Path]]) -> list[list[Tensor]] | None:
    """The features [F, D] of every image of some turns; None if images must go in as pixels.

    Each image is run alone, so its features do not depend on when and with which others it was first asked for.
    """
    if not _frozen(loaded):
        return None
    memory, tower = _memories.setdefault(loaded.encoder, FeatureMemory()), None
    found: dict[Path, Tensor] = {}
    for image in dict.fromkeys(image for images in shown for image in images):
        tower = tower or _identity(loaded)
        key = (image, tower, str(loaded.device))
        features = memory.get(key)
        if features is None:
            features = _features(loaded, image)
            memory.keep(key, features)
        found[image] = features
    return [[found[image] for image in images] for images in shown]


def _features(loaded: Loaded, image: Path) -> Tensor:
    model, turn = core(loaded.model), Turn(prompt="?", image=image)
    tokens = loaded.encoder.prompt(turn).count(-1 if loaded.image_token_id is None else loaded.image_token_id)
    training = model.training
    if training:
        model.eval()
    try:
        # the features outlive an evaluation and are trained on later, so they must be ordinary tensors
        with torch.inference_mode(mode=False), torch.no_grad():
            pixels = {key: value.to(loaded.device).clone() for key, value in loaded.encoder.images([turn]).items()}
            features = loaded.family.image_features(model, pixels)
    finally:
        if training:
            model.train()
    if len(features) != tokens:  # every later image of a batch would get a part of the one before
        raise ModelError(
            f"{image}: the processor gives it {tokens} tokens and the model {len(features)} features. The processor "
            f"({type(loaded.encoder.processor).__name__}) does not fit the model; 'mllmu doctor' names its settings."
        )
    return features


def _parts(loaded: Loaded) -> list[Any]:
    return [getattr(core(loaded.model).model, name) for name in loaded.family.image_parts]


def _frozen(loaded: Loaded) -> bool:
    """Everything that images go through is known and not being trained."""
    parts = _parts(loaded)
    trained = any(p.requires_grad for part in parts for p in part.parameters())
    # an adapter inside can be switched off, which the weights do not tell
    adapted = any("lora_" in name for part in parts for name, _ in part.named_parameters())
    return bool(parts) and not adapted and not (trained and torch.is_grad_enabled())


def _identity(loaded: Loaded) -> str:
    """SHA-256 of the weights that images go through; read again only where they have been written to since."""
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
    """The inputs as the model takes them: image features, if given, are put among the embeddings of the tokens.

    This is what the models do themselves after their vision tower: every image token becomes a row of features.
    """
    if FEATURES not in inputs:
        return inputs
    own = core(model)
    ids_BT = inputs["input_ids"]
    tokens_BTD = own.get_input_embeddings()(ids_BT)
    places_BT1 = (ids_BT == own.config.image_token_id)[..., None]
    embeds_BTD = tokens_BTD.masked_scatter(places_BT1, inputs[FEATURES].to(tokens_BTD.dtype))
    return {"inputs_embeds": embeds_BTD, **{k: v for k, v in inputs.items() if k not in ("input_ids", FEATURES)}}
