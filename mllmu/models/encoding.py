"""Samples to turns, turns to padded batches, images to features of a frozen vision tower; each is computed once.

All questions of a run show the same few images, and vision tower and projector are the same in every model of it. So
an image's features are remembered, by image and by the weights they went through. Families say with ``image_parts``
whether this is all that an image goes through; for others, and where one of these parts is being trained, images are
put in as pixels.

Shapes: B rows, T tokens, F image tokens, D hidden size of the language model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from cachetools import LRUCache
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mllmu.core.records import Sample
from mllmu.models import misfits
from mllmu.models.families import IGNORE, Batch, Family, Turn, core, moved, unknown_attention

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
FEATURES = "image_features"
"""Among the inputs of a batch: [F, D] the features of its images, in order, instead of their pixels."""
PIXEL_BYTES = 4 * 2**30
"""Memory of prepared images; one is 1 MiB for LLaVA-1.5, up to 30 MiB where it is cut up."""
DEVICE_BYTES, FEATURE_BYTES = 2**30, 8 * 2**30
"""Memory of the remembered features of a run: on the device, and with those that lie beside the processor."""


class EncodedPrompt(NamedTuple):
    """The tokens of a prompt, and its turn."""

    ids: Sequence[int]
    turn: Turn


class Encoder:
    """Encodes turns for one model; a turn with its reply has at most ``context`` tokens.

    The prompt and the reply are tokenised apart and joined, so the labels are exact by construction and the prompt
    tokens are the very ones that generation sees.
    """

    def __init__(self, family: Family, processor: Any, context: int) -> None:
        self.family, self.processor, self.context = family, processor, context
        self._prompts: dict[tuple[str, str, Path | None, tuple[Turn, ...]], list[int]] = {}
        self._image_ids: dict[Path, list[int] | None] = {}
        self._replies: dict[str, list[int]] = {}
        # those unused longest go first
        self._pixels: LRUCache[Any, dict[str, Tensor]] = LRUCache(
            PIXEL_BYTES, getsizeof=lambda tensors: sum(tensor.nbytes for tensor in tensors.values())
        )
        self.features: LRUCache[Any, Tensor] = LRUCache(FEATURE_BYTES, getsizeof=lambda features: features.nbytes)

    def prompt(self, turn: Turn) -> list[int]:
        """Prompt token ids; also remembers the image."""
        key = (turn.system, turn.prompt, turn.image, turn.before)
        if key not in self._prompts:
            image = self._image_ids.get(turn.image) if turn.image and not turn.before else None
            self._prompts[key] = (
                self._first_prompt(turn) if image is None else self.family.prompt_ids_again(turn, self.processor, image)
            )
        return self._prompts[key]

    def _first_prompt(self, turn: Turn) -> list[int]:
        ids, tensors = self.family.prompt_ids(turn, self.processor)
        if turn.images:
            remembered(self._pixels, turn.images, lambda: tensors)
        if turn.image is not None and not turn.before and turn.image not in self._image_ids:
            self._image_ids[turn.image] = self.family.image_ids(turn, self.processor, ids)
        return ids

    def image_ids(self, image: Path) -> list[int] | None:
        """The tokens that stand for an image wherever its mark is; None if they cannot be told apart."""
        self.prompt(Turn(prompt="?", image=image))
        return self._image_ids[image]

    def reply(self, text: str) -> list[int]:
        """Reply token ids with end-of-sequence; an empty reply has none."""
        if text not in self._replies:
            self._replies[text] = self.family.reply_ids(text, self.processor) if text else []
        return self._replies[text]

    def batch(self, turns: Sequence[Turn], *, side: Literal["left", "right"] = "right") -> Batch:
        """Encode and pad turns; see :class:`Batch`.

        Raises:
            ModelError: a turn does not fit the context; it is never truncated, the message shows its beginning.
        """
        rows = [(self.prompt(turn), self.reply(turn.reply)) for turn in turns]
        lengths = [self.check_length(turn, turn.reply) for turn in turns]

        def padded(values: Iterable[Sequence[int]], fill: int) -> Tensor:
            tensors = [torch.tensor(row, dtype=torch.long) for row in values]
            return pad_sequence(tensors, batch_first=True, padding_value=fill, padding_side=side)

        ids_BT = padded((prompt + reply for prompt, reply in rows), self.pad)
        labels_BT = padded(([IGNORE] * len(prompt) + reply for prompt, reply in rows), IGNORE)
        mask_BT = padded(([1] * length for length in lengths), 0)
        inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, **self.images(turns)}
        inputs |= self.family.token_inputs(ids_BT, labels_BT, self.processor)
        return Batch(inputs=inputs, labels=labels_BT, num_tokens=sum(lengths))

    def check_length(self, turn: Turn, reply: str) -> int:
        """Number of tokens of a turn with a reply; more than the context holds is a ModelError."""
        length = len(self.prompt(turn)) + len(self.reply(reply))
        if length > self.context:
            raise misfits.too_long(
                turn, length, self.context, self._image_ids.get(turn.image) or () if turn.image else ()
            )
        return length

    def room(self, length: int, limit: int) -> int:
        """New tokens, at most ``limit``, behind a prompt of so many tokens: a reply ends where the context does."""
        return min(limit, max(1, self.context - length))

    def check(self, turns: Sequence[Turn]) -> None:
        """Encode all turns and measure them, so that one that does not fit is found before hours of work."""
        for turn in turns:
            self.check_length(turn, turn.reply)

    @property
    def pad(self) -> int:
        """The padding token."""
        return int(self.processor.tokenizer.pad_token_id)

    def images(self, turns: Sequence[Turn]) -> dict[str, Tensor]:
        """The image tensors of turns whose prompts have been encoded, in order; empty if none has an image."""

        def prepared(turn: Turn) -> dict[str, Tensor]:
            return self.family.prompt_ids(turn, self.processor)[1]

        tensors = [remembered(self._pixels, turn.images, partial(prepared, turn)) for turn in turns if turn.images]
        return self.family.join_images(tensors) if tensors else {}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to run: weights, encoder, its device, and whether its training batches are packed."""

    model: Any
    encoder: Encoder
    device: torch.device
    packs: bool = False

    @property
    def family(self) -> Family:
        return self.encoder.family

    @property
    def shares(self) -> bool:
        """Whether common beginnings of prompts are read once."""
        return self.family.shares_prefix and not unknown_attention(core(self.model).config.get_text_config())

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a reply."""
        configured = self.model.generation_config.eos_token_id
        more = configured if isinstance(configured, list) else [configured]
        trained = self.encoder.reply("?")[-1]
        return frozenset({trained, self.encoder.processor.tokenizer.eos_token_id, *more} - {None})

    @property
    def image_token_id(self) -> int:
        """Token that stands for a piece of the image; -1, which is no token, if the model has none."""
        config = self.model.config
        token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
        return -1 if token is None else int(token)


def remembered(cache: LRUCache[Any, T], key: Any, make: Callable[[], T]) -> T:
    """The value of a key, made if it is not there; it is kept unless it alone is larger than the cache."""
    if (value := cache.get(key)) is None:
        value = make()
        with suppress(ValueError):
            cache[key] = value
    return value


def as_turn(sample: Sample, image_folder: Path, system_prompt: str) -> Turn:
    """A sample as a turn, without reply; a raw prompt, which holds its examples, gets the system prompt before it."""
    system = "\n".join(part for part in (system_prompt, sample.system) if part)
    image = image_folder / sample.image if sample.image else None
    before = tuple(
        Turn(prompt=one.prompt, reply=one.reply, image=image_folder / one.image if one.image else None)
        for one in sample.examples
    )
    prompt = f"{system}\n{sample.prompt}" if sample.raw_prompt and system else sample.prompt
    return Turn(prompt=prompt, image=image, system=system, label=sample.id, before=before)


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by their key, in their order; keys in that of the first item of each."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own.

    >>> shared_length([[1, 2, 3], [1, 2, 4]]), shared_length([[1, 2], [1, 2]])
    (2, 1)
    """
    columns = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    differ = (index for index, tokens in enumerate(columns) if len(set(tokens)) > 1)
    return next(differ, min(len(prompt) - 1 for prompt in prompts))


_identities: WeakKeyDictionary[Any, tuple[tuple[Any, ...], str]] = WeakKeyDictionary()
_digests: WeakKeyDictionary[Any, tuple[tuple[Any, ...], bytes]] = WeakKeyDictionary()


def image_inputs(loaded: Loaded, turns: Sequence[Turn]) -> dict[str, Tensor]:
    """The images of turns whose prompts have been encoded: as features if the tower is frozen, else as pixels."""
    shown = [turn.images for turn in turns if turn.images]
    features = image_features(loaded, shown)
    if not shown or features is None:
        return loaded.encoder.images(turns)
    return {FEATURES: torch.cat([each for images in features for each in images])}


def image_features(loaded: Loaded, shown: Sequence[Sequence[Path]]) -> list[list[Tensor]] | None:
    """The features [F, D] of every image of some turns; None if images must go in as pixels.

    Each image is run alone, so its features do not depend on when and with which others it was first asked for.
    """
    parts = [getattr(core(loaded.model).model, name) for name in loaded.family.image_parts]
    weights = [pair for part in parts for pair in part.named_parameters()]
    trained = any(weight.requires_grad for _, weight in weights)
    adapted = any("lora_" in name for name, _ in weights)  # it can be switched off, which the weights do not tell
    if not parts or adapted or (trained and torch.is_grad_enabled()):
        return None
    tower = _identity(parts) if any(shown) else ""

    def features(image: Path) -> Tensor:
        key = (image, tower, str(loaded.device))
        return moved(remembered(loaded.encoder.features, key, lambda: _features(loaded, image, parts)), loaded.device)

    return [[features(image) for image in images] for images in shown]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """The model without dropout while the context lasts."""
    was_training = model.training
    _set_training(model, value=False)
    try:
        yield
    finally:
        _set_training(model, value=was_training)


def _set_training(model: Any, *, value: bool) -> None:
    for module in model.modules():  # as train() does, which takes many times as long on thousands of modules
        module.__dict__["training"] = value


def _features(loaded: Loaded, image: Path, parts: Sequence[Any]) -> Tensor:
    model, turn = core(loaded.model), Turn(prompt="?", image=image)
    num_tokens = loaded.encoder.prompt(turn).count(loaded.image_token_id)
    # the features outlive an evaluation and are trained on later, so they must be ordinary tensors
    with ExitStack() as stack, torch.inference_mode(mode=False), torch.no_grad():
        for part in parts:
            stack.enter_context(evaluating(part))
        pixels = {key: value.to(loaded.device).clone() for key, value in loaded.encoder.images([turn]).items()}
        features = loaded.family.image_features(model, pixels)
        if features.is_cuda and loaded.encoder.features.currsize > DEVICE_BYTES:
            features = features.cpu().pin_memory()
    if len(features) != num_tokens:  # every later image of a batch would get a part of the one before
        raise misfits.other_features(image, loaded.encoder.processor, num_tokens, len(features))
    return features


def _identity(parts: Sequence[Any]) -> str:
    """SHA-256 of the weights that images go through; those that models share are read once, unless written to since."""
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    state = tuple((id(tensor), tensor._version) for tensor in tensors)
    if _identities.get(parts[0], ((), ""))[0] != state:
        _identities[parts[0]] = (state, hashlib.sha256(b"".join(map(_digest, tensors))).hexdigest())
    return _identities[parts[0]][1]


def _digest(tensor: Tensor) -> bytes:
    storage, state = tensor.untyped_storage(), (tensor._version, tensor.storage_offset(), tensor.shape)
    if _digests.get(storage, ((), b""))[0] != state:
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        _digests[storage] = (state, hashlib.sha256(content.data).digest())
    return _digests[storage][1]
