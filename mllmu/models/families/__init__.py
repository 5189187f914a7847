"""One file per model family: how its prompts look, which tokens are the answer, where adapters go.

A family turns a ``Turn`` (picture, prompt, reply) into tokens and picture tensors. Padding, batching and caching are
the same for all families, see ``mllmu.models.encoding``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mllmu.errors import DataError
from mllmu.plugins import Plugin

IGNORE = -100


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One exchange: a picture (or none), the user's text, and for training or scoring the reply.

    ``person`` and ``topic`` (the attribute asked about) are never shown to a model; empty where they are not known.
    """

    prompt: str
    reply: str = ""
    image: Path | None = None
    system: str = ""
    person: str = ""
    topic: str = ""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Tensors of some turns, padded to one length.

    Shapes: B turns, T tokens, P turns that have a picture.

    Attributes:
        inputs: keyword arguments of the model: input_ids [B, T], attention_mask [B, T], and the family's picture
            tensors, with P rows in the order of the turns.
        labels: [B, T] the reply tokens including end-of-sequence; IGNORE on prompt, image and padding tokens.
            Label t is the token *at* position t; it is predicted from position t - 1.
        replies: [B, T] which reply a labelled token belongs to; None if row b is reply b (not packed).
        num_replies: number of replies; only where they are not the rows.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    replies: Tensor | None = None
    num_replies: int = 0

    def to(self, device: torch.device) -> Batch:
        inputs = {k: v.to(device) for k, v in self.inputs.items()}
        replies = None if self.replies is None else self.replies.to(device)
        return replace(self, inputs=inputs, labels=self.labels.to(device), replies=replies)


class Family(Plugin):
    """Base of the model families.

    Class attributes:
        lora_targets: regular expression of the linear layers that get adapters: the language model only.
        model_types: values of ``config.model_type`` this family handles.
        picture_inputs: names of the picture tensors among the model's inputs.
        shares_prefix: positions are plain counts and a cache holds all tokens, so that sequences can be continued
            from a common prefix; False for families with multi-axis positions or sliding windows.
        image_mark: token that stands for a picture in rendered text, and is repeated for each of its pieces; empty
            if only the processor can tell which tokens a picture becomes.
    """

    lora_targets: ClassVar[str] = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    model_types: ClassVar[tuple[str, ...]] = ()
    picture_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    shares_prefix: ClassVar[bool] = True
    image_mark: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The plug-in's name, which is the name of its file."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def render(self, turn: Turn) -> str:
        """The prompt text up to and including the place where the reply begins."""

    def prompt_ids(self, turn: Turn, processor: Any) -> tuple[list[int], dict[str, Tensor]]:
        """Token ids of the prompt, image tokens expanded, and the picture tensors (empty without a picture)."""
        images = [open_image(turn.image)] if turn.image is not None else None
        inputs = processor(text=[self._text(turn, processor)], images=images, return_tensors="pt")
        return inputs["input_ids"][0].tolist(), {k: inputs[k] for k in self.picture_inputs if k in inputs}

    def prompt_ids_again(self, turn: Turn, processor: Any, earlier: Sequence[int]) -> list[int]:
        """Token ids of another prompt with the picture of ``earlier``: the picture is not processed a second time.

        Only for families with an ``image_mark``; equals what :meth:`prompt_ids` gives.
        """
        count = list(earlier).count(processor.tokenizer.convert_tokens_to_ids(self.image_mark))
        text = self._text(turn, processor).replace(self.image_mark, self.image_mark * count, 1)
        ids: list[int] = processor.tokenizer(text)["input_ids"]
        return ids

    def _text(self, turn: Turn, processor: Any) -> str:
        prompt, system = as_plain_text(turn.prompt, processor), as_plain_text(turn.system, processor)
        return self.render(replace(turn, prompt=prompt, system=system))

    def reply_ids(self, reply: str, processor: Any) -> list[int]:
        """Token ids of the reply as trained: one space, the text, end-of-sequence."""
        tokenizer = processor.tokenizer
        text = f" {as_plain_text(reply, processor)}{tokenizer.eos_token}"
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def as_plain_text(text: str, processor: Any) -> str:
    """Text in which nothing is read as a special token: ``<image>`` becomes ``< image>``, ``</s>`` becomes ``< /s>``.

    Names, questions and replies are data; a name that contains a special token must not add a picture or end a turn.
    """
    for token in _special_texts(processor.tokenizer, getattr(processor, "image_token", "")):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


@lru_cache(maxsize=16)
def _special_texts(tokenizer: Any, image_token: str) -> tuple[str, ...]:
    """The special tokens of a tokenizer as text, the longest first."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {*tokenizer.all_special_tokens, image_token}
    return tuple(sorted((token for token in special if len(token) > 1), key=lambda token: (-len(token), token)))


def open_image(path: Path) -> Image.Image:
    """Open a picture completely as RGB; a missing or broken file raises DataError naming it."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{path}: no such picture. Run the data stage again (mllmu data RECIPE --force).") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable picture ({error}). Replace it or make the data again.") from None
