"""From turns to padded batches; token ids and images are computed once and remembered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mllmu.core.errors import ModelError
from mllmu.models.families import IGNORE, Batch, Family, Turn

IMAGES_MIB = 4096
"""Prepared images are kept in memory up to this size; one is 1 MiB for LLaVA-1.5, up to 30 where it is cut up."""


class Encoder:
    """Encodes turns for one model.

    The prompt and the reply are tokenised apart and joined, so the labels are exact by construction and the prompt
    tokens are the very ones that generation sees.
    """

    def __init__(self, family: Family, processor: Any, context: int) -> None:
        self.family = family
        self.processor = processor
        self.context = context
        self._prompts: dict[tuple[str, str, Path | None, tuple[Turn, ...]], list[int]] = {}
        self._image_ids: dict[Path, list[int] | None] = {}
        self._images = Images(IMAGES_MIB)
        self._replies: dict[str, list[int]] = {}

    def prompt(self, turn: Turn) -> list[int]:
        """Prompt token ids; also remembers the image."""
        key = (turn.system, turn.prompt, turn.image, turn.before)
        if key not in self._prompts:
            known = self._image_ids.get(turn.image) if turn.image and not turn.before else None
            self._prompts[key] = (
                self._first_prompt(turn) if known is None else self.family.prompt_ids_again(turn, self.processor, known)
            )
        return self._prompts[key]

    def _first_prompt(self, turn: Turn) -> list[int]:
        ids, tensors = self.family.prompt_ids(turn, self.processor)
        if turn.images and self._images.get(turn.images) is None:
            self._images.keep(turn.images, tensors)
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
        pairs = [(self.prompt(turn), self.reply(turn.reply)) for turn in turns]
        width = max(self.check_length(turn, turn.reply) for turn in turns)
        ids_BT = torch.full((len(turns), width), self.pad)
        mask_BT, labels_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, IGNORE)
        for row, (p, r) in enumerate(pairs):
            start = width - len(p) - len(r) if side == "left" else 0
            end = start + len(p) + len(r)
            ids_BT[row, start:end] = torch.tensor(p + r)
            mask_BT[row, start:end] = 1
            labels_BT[row, start + len(p) : end] = torch.tensor(r, dtype=torch.long)
        inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, **self.images(turns)}
        inputs |= self.family.token_inputs(ids_BT, labels_BT, self.processor)
        return Batch(inputs=inputs, labels=labels_BT)

    def check_length(self, turn: Turn, reply: str) -> int:
        """Number of tokens of a turn with a reply; more than the context holds is a ModelError."""
        length = len(self.prompt(turn)) + len(self.reply(reply))
        if length > self.context:
            who = turn.label or (f"person {turn.person}" if turn.person else "")
            image = len(self._image_ids.get(turn.image) or ()) if turn.image else 0
            has_image = f" ({image} of them the image's)" if image else ""
            raise ModelError(
                f"{who}{': ' if who else ''}the prompt '{turn.prompt[:60]}...' has {length} tokens{has_image}, the "
                f"model's context is {self.context}, and nothing is ever cut off. Use fewer shots, shorter text, "
                "smaller images (model.image_processor), or a model with a longer context."
            )
        return length

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
        shown = [turn for turn in turns if turn.images]
        return self.family.join_images([self._image(turn) for turn in shown]) if shown else {}

    def _image(self, turn: Turn) -> dict[str, Tensor]:
        tensors = self._images.get(turn.images)
        if tensors is None:
            tensors = self.family.prompt_ids(turn, self.processor)[1]
            self._images.keep(turn.images, tensors)
        return tensors


class Images:
    """Image tensors by the images of a prompt, at most so many MiB; the one used longest ago goes first."""

    def __init__(self, limit_mib: float) -> None:
        self.limit_mib = limit_mib
        self.held_mib = 0.0
        self._held: OrderedDict[tuple[Path, ...], dict[str, Tensor]] = OrderedDict()

    def get(self, paths: tuple[Path, ...]) -> dict[str, Tensor] | None:
        if paths in self._held:
            self._held.move_to_end(paths)
        return self._held.get(paths)

    def keep(self, paths: tuple[Path, ...], tensors: dict[str, Tensor]) -> None:
        self._held[paths] = tensors
        self.held_mib += _mib(tensors)
        while self.held_mib > self.limit_mib and len(self._held) > 1:
            self.held_mib -= _mib(self._held.popitem(last=False)[1])


def _mib(tensors: dict[str, Tensor]) -> float:
    return sum(tensor.nbytes for tensor in tensors.values()) / 2**20


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with, leaving each at least one of its own.

    >>> shared_length([[1, 2, 3], [1, 2, 4]]), shared_length([[1, 2], [1, 2]])
    (2, 1)
    """
    places = zip(*(prompt[:-1] for prompt in prompts), strict=False)
    differ = (place for place, tokens in enumerate(places) if len(set(tokens)) > 1)
    return next(differ, min(len(prompt) - 1 for prompt in prompts))
